//! Whom a neighbour is opened for: its identity, as libvirt's daemons tell it to each other.

use unixfd::Peer;
use wire::typed::TypedParam;

/// The caller that a neighbour decides about.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The process, and whether it may only look.
    pub(crate) peer: Peer,
    /// Its identity in its own words, where it speaks for another and may do so.
    pub(crate) given: Option<Vec<TypedParam>>,
    /// Label that a security module gave the process.
    pub(crate) label: Option<String>,
}

impl Caller {
    /// The parameters of `ConnectSetIdentity`. Blocks: asks for the names of user and group.
    pub(super) fn identity(&self) -> Vec<TypedParam> {
        if let Some(given) = &self.given {
            return given.clone();
        }
        let cred = self.peer.cred;
        let mut params = vec![TypedParam::new("unix-user-id", u64::from(cred.uid)), TypedParam::new("unix-group-id", u64::from(cred.gid))];
        let names = [("user-name", cred.user_name()), ("group-name", cred.group_name()), ("selinux-context", self.label.clone())];
        params.extend(names.into_iter().filter_map(|(field, name)| Some(TypedParam::new(field, name?))));
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
    use wire::typed::TypedValue;

    use super::*;

    #[test]
    fn a_process_is_told_by_ids_names_and_start() {
        let peer = Peer { cred: PeerCred::own(), read_only: false };
        let caller = Caller { peer, given: None, label: Some("a:b:c".into()) };
        let params = caller.identity();
        let value = |name: &str| params.iter().find(|param| param.field.as_bytes() == name.as_bytes()).map(|param| &param.value);
        assert_eq!(value("unix-user-id"), Some(&TypedValue::Ullong(peer.cred.uid.into())));
        assert_eq!(value("process-id"), Some(&TypedValue::Llong(peer.cred.pid.into())));
        assert_eq!(value("process-time"), Some(&TypedValue::Ullong(unixfd::start_time(peer.cred.pid).unwrap())));
        assert_eq!(value("selinux-context"), Some(&TypedValue::from("a:b:c")));
        let given = vec![TypedParam::new("sasl-user-name", "joe")];
        assert_eq!(Caller { given: Some(given.clone()), ..caller }.identity(), given);
    }
}
