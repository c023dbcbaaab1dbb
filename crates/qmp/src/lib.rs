//! QMP and guest-agent client: framing, commands, events. No policy.
