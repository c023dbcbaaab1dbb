//! Whom the journal has told of: follows from its events, and is compared with the files at start-up.

use std::{collections::HashMap, sync::Arc};

use uuid::Uuid;

use super::model as pb;
use super::{Happening, lifecycle};

/// libvirt's lifecycle numbers that matter here.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;
const STARTED: i32 = 2;
const RESUMED: i32 = 4;
const STOPPED: i32 = 5;
/// STARTED details: BOOTED; of both DEFINED and UNDEFINED: RENAMED.
const BOOTED: i32 = 0;
const DEFINED_RENAMED: i32 = 2;
const UNDEFINED_RENAMED: i32 = 1;
/// The state of a guest that does not run.
const SHUTOFF: i32 = 5;
/// The event that brings a guest that runs into a state, by libvirt's numbers: state, event, detail.
const ENTERED: &[(i32, i32, i32)] = &[(1, RESUMED, 0), (3, 3, 0), (4, 6, 1), (6, 8, 0), (7, 7, 0)];

/// One guest as found at start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Has a stored configuration.
    pub defined: bool,
    /// Number of its run, 0 if it does not run.
    pub id: i32,
    /// Its state and reason by libvirt's numbers; state 0 is not known.
    pub state: (i32, i32),
}

/// One guest as told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    name: Arc<str>,
    defined: bool,
    id: i32,
    /// libvirt's number of its state; 0 is not known.
    state: i32,
}

/// All guests as told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    guests: HashMap<Uuid, Told>,
}

impl Known {
    /// Nobody is known.
    pub fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    /// What is known when everything found was told.
    pub fn from_found(found: &[Found]) -> Self {
        let told = |f: &Found| Told {
            name: Arc::clone(&f.name),
            defined: f.defined,
            id: f.id,
            state: f.state.0,
        };
        Self {
            guests: found.iter().map(|f| (f.uuid, told(f))).collect(),
        }
    }

    /// Takes in one event.
    pub(super) fn note(&mut self, event: &pb::Event) {
        let (Ok(uuid), Some(pb::event::Detail::Lifecycle(change))) =
            (Uuid::parse_str(&event.uuid), &event.detail)
        else {
            return;
        };
        if change.gone {
            self.guests.remove(&uuid);
            return;
        }
        let told = self.guests.entry(uuid).or_insert_with(|| Told {
            name: event.name.as_str().into(),
            defined: false,
            id: 0,
            state: 0,
        });
        told.state = change.state;
        match change.r#type {
            DEFINED => (told.defined, told.name) = (true, event.name.as_str().into()),
            UNDEFINED if change.detail == 0 => told.defined = false,
            STARTED | RESUMED => told.id = event.id,
            STOPPED => told.id = 0,
            _ => {}
        }
    }

    /// What was not told of `found`, as the events that should have been. `why` is the detail of a run's end.
    pub(super) fn missed(&self, found: &[Found], why: impl Fn(Uuid, i32) -> i32) -> Vec<Happening> {
        let mut missed = Vec::new();
        let now: HashMap<Uuid, &Found> = found.iter().map(|f| (f.uuid, f)).collect();
        for (uuid, told) in &self.guests {
            let gone = !now.contains_key(uuid);
            let (defined, id) = now.get(uuid).map_or((false, 0), |f| (f.defined, f.id));
            if told.id != 0 && id != told.id {
                let end = happening(
                    *uuid,
                    &told.name,
                    told.id,
                    lifecycle(STOPPED, why(*uuid, told.id)),
                );
                missed.push(end.in_state((SHUTOFF, 0)).last(gone && !told.defined));
            }
            if told.defined && !defined {
                missed.push(happening(*uuid, &told.name, id, lifecycle(UNDEFINED, 0)).last(gone));
            }
        }
        for guest in found {
            let told = self.guests.get(&guest.uuid);
            let tell = |name: &Arc<str>, kind: i32, detail: i32| {
                happening(guest.uuid, name, guest.id, lifecycle(kind, detail)).in_state(guest.state)
            };
            match told.filter(|t| t.defined) {
                _ if !guest.defined => {}
                None => missed.push(tell(&guest.name, DEFINED, 0)),
                Some(t) if t.name != guest.name => {
                    missed.push(tell(&t.name, UNDEFINED, UNDEFINED_RENAMED));
                    missed.push(tell(&guest.name, DEFINED, DEFINED_RENAMED));
                }
                Some(_) => {}
            }
            let entered = || ENTERED.iter().find(|(state, ..)| *state == guest.state.0);
            match told.filter(|t| t.id == guest.id) {
                _ if guest.id == 0 => {}
                None => {
                    missed.push(tell(&guest.name, STARTED, BOOTED));
                    missed.extend(
                        entered()
                            .filter(|(_, kind, _)| *kind != RESUMED)
                            .map(|(_, kind, detail)| tell(&guest.name, *kind, *detail)),
                    );
                }
                Some(t) if t.state != 0 && guest.state.0 != t.state => {
                    missed.extend(entered().map(|(_, kind, detail)| tell(&guest.name, *kind, *detail)));
                }
                Some(_) => {}
            }
        }
        missed
    }

    /// As bytes for a segment's head: uuid, state and whether it is defined, id, length of name, name.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.guests.len() * 48);
        for (uuid, told) in &self.guests {
            out.extend(uuid.as_bytes());
            out.push(u8::try_from(told.state & 0x7f).unwrap_or(0) << 1 | u8::from(told.defined));
            out.extend(told.id.to_le_bytes());
            out.extend(u32::try_from(told.name.len()).unwrap_or(0).to_le_bytes());
            out.extend(told.name.as_bytes());
        }
        out
    }

    /// The reverse of `encode`.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut guests = HashMap::new();
        while !bytes.is_empty() {
            let (uuid, rest) = bytes.split_first_chunk::<16>()?;
            let (flags, rest) = rest.split_first()?;
            let (id, rest) = rest.split_first_chunk::<4>()?;
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            let name = std::str::from_utf8(name).ok()?.into();
            guests.insert(
                Uuid::from_bytes(*uuid),
                Told {
                    name,
                    defined: flags & 1 != 0,
                    id: i32::from_le_bytes(*id),
                    state: i32::from(flags >> 1),
                },
            );
            bytes = rest;
        }
        Some(Self { guests })
    }
}

fn happening(uuid: Uuid, name: &Arc<str>, id: i32, change: pb::event::Lifecycle) -> Happening {
    let detail = Some(pb::event::Detail::Lifecycle(change));
    Happening {
        uuid,
        name: Arc::clone(name),
        id,
        kind: pb::EventKind::Lifecycle,
        detail,
    }
}

impl Happening {
    /// The same, with the state and reason after it.
    fn in_state(mut self, (state, reason): (i32, i32)) -> Self {
        if let Some(pb::event::Detail::Lifecycle(change)) = &mut self.detail {
            (change.state, change.reason) = (state, state * 100 + reason);
        }
        self
    }

    /// The same, marked as the guest's last if `gone`.
    fn last(mut self, gone: bool) -> Self {
        if let Some(pb::event::Detail::Lifecycle(change)) = &mut self.detail {
            change.gone = gone;
        }
        self
    }
}
