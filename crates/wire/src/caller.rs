//! For whom a daemon is called by another: the identity that libvirt's daemons tell each other.

use std::sync::Arc;

use unixfd::Peer;

use crate::procedure::ProcedureInfo;
use crate::typed::TypedParam;

/// The caller that a daemon decides about.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The process, and whether it may only look.
    pub peer: Peer,
    /// What more is known of it, if anything.
    pub more: Option<Arc<More>>,
    /// The procedure that it has called, if it speaks libvirt's protocol.
    pub call: Option<&'static ProcedureInfo>,
}

/// What is known of a caller beyond its credentials.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct More {
    /// Its identity in its own words, where it speaks for another and may do so.
    pub given: Option<Vec<TypedParam>>,
    /// Label that a security module gave the process.
    pub label: Option<String>,
}

impl Caller {
    /// The parameters of `ConnectSetIdentity`. Blocks: asks for the names of user and group.
    #[must_use]
    pub fn identity(&self) -> Vec<TypedParam> {
        if let Some(given) = self.more.as_ref().and_then(|more| more.given.as_ref()) {
            return given.clone();
        }
        let cred = self.peer.cred;
        let mut params = vec![
            TypedParam::new("unix-user-id", u64::from(cred.uid)),
            TypedParam::new("unix-group-id", u64::from(cred.gid)),
        ];
        let label = self.more.as_ref().and_then(|more| more.label.clone());
        let names = [
            ("user-name", cred.user_name()),
            ("group-name", cred.group_name()),
            ("selinux-context", label),
        ];
        params.extend(
            names
                .into_iter()
                .filter_map(|(field, name)| Some(TypedParam::new(field, name?))),
        );
        if cred.pid > 0 {
            params.push(TypedParam::new("process-id", i64::from(cred.pid)));
            let since = unixfd::start_time(cred.pid).ok();
            params.extend(since.map(|since| TypedParam::new("process-time", since)));
        }
        params
    }
}

#[cfg(test)]
mod tests {
    use unixfd::PeerCred;

    use super::*;
    use crate::typed::TypedValue;

    #[test]
    fn a_process_is_told_by_ids_names_and_start() {
        let peer = Peer {
            cred: PeerCred::own(),
            read_only: false,
        };
        let caller = Caller {
            peer,
            more: Some(Arc::new(More {
                given: None,
                label: Some("a:b:c".into()),
            })),
            call: None,
        };
        let params = caller.identity();
        let value = |name: &str| {
            params
                .iter()
                .find(|param| param.field.as_bytes() == name.as_bytes())
                .map(|param| &param.value)
        };
        assert_eq!(
            value("unix-user-id"),
            Some(&TypedValue::Ullong(peer.cred.uid.into()))
        );
        assert_eq!(
            value("process-id"),
            Some(&TypedValue::Llong(peer.cred.pid.into()))
        );
        assert_eq!(
            value("process-time"),
            Some(&TypedValue::Ullong(unixfd::start_time(peer.cred.pid).unwrap()))
        );
        assert_eq!(value("selinux-context"), Some(&TypedValue::from("a:b:c")));
        let given = vec![TypedParam::new("sasl-user-name", "joe")];
        let more = Some(Arc::new(More {
            given: Some(given.clone()),
            label: None,
        }));
        let call = None;
        assert_eq!(Caller { peer, more, call }.identity(), given);
    }
}
