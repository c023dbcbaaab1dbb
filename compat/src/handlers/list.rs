//! Which guests there are.

use tonic::Status;
use virtqemud_client::direct;
use wire::remote::*;

use super::flags::Flags;
use super::{Basic, Reply, args};
use crate::ctx::Ctx;
use crate::proto::{Filter, ListRequest, State, View};

/// Most guests of a list, and its name in the protocol.
const MOST: (usize, &str) = (DOMAIN_LIST_MAX, "REMOTE_DOMAIN_LIST_MAX");

/// Guests in one answer of the service.
const PAGE: i32 = 16_384;

/// Pairs of flags that ask for guests with and without a property. Both or neither: it does not matter.
const PAIRS: [(u32, u32, Property); 6] = [
    (1, 2, |filter, wanted| filter.active = wanted),
    (4, 8, |filter, wanted| filter.persistent = wanted),
    (0x100, 0x200, |filter, wanted| filter.managed_save = wanted),
    (0x400, 0x800, |filter, wanted| filter.autostart = wanted),
    (0x1000, 0x2000, |filter, wanted| filter.snapshot = wanted),
    (0x4000, 0x8000, |filter, wanted| filter.checkpoint = wanted),
];

/// Sets one property of a filter.
type Property = fn(&mut Filter, Option<bool>);

/// Flags that ask for states; none: for any.
const STATES: [(u32, &[State]); 4] = [
    (16, &[State::Running]),
    (32, &[State::Paused]),
    (64, &[State::Shutoff]),
    (128, &[State::Shutdown, State::Crashed, State::Pmsuspended]),
];

/// The guests that libvirt's flags of a list ask for.
pub(crate) fn filter(flags: u32) -> Filter {
    let mut filter = Filter::default();
    for (with, without, set) in PAIRS {
        let (with, without) = (flags & with != 0, flags & without != 0);
        set(&mut filter, Some(with).filter(|_| with != without));
    }
    let states = STATES.iter().filter(|(flag, _)| flags & flag != 0);
    filter.states = states
        .flat_map(|(_, states)| states.iter().map(|state| i32::from(*state)))
        .collect();
    filter
}

/// The part of [`ListResponse`](crate::proto::ListResponse) that a list of libvirt's takes.
#[derive(Clone, PartialEq, prost::Message)]
struct Entries {
    #[prost(message, repeated, tag = "1")]
    domains: Vec<Basic>,
    #[prost(string, tag = "2")]
    next_page_token: String,
}

async fn page(ctx: &Ctx, request: ListRequest) -> Result<Entries, Status> {
    direct::call(&ctx.calls(), "/virtqemud.v1.Domains/List", &request).await
}

/// All guests that `filter` lets through.
async fn all(ctx: &Ctx, filter: Filter) -> Reply<Vec<Basic>> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRequest {
            filter: Some(filter.clone()),
            page_size: PAGE,
            page_token,
            view: View::Basic.into(),
        };
        let page = page(ctx, request).await?;
        found.extend(page.domains);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// How many guests are active, or not.
async fn number(ctx: &Ctx, active: bool) -> Reply<i32> {
    let request = ListRequest {
        filter: Some(only(active)),
        page_size: 1,
        ..ListRequest::default()
    };
    Ok(ctx.domains().list(request).await?.total_size)
}

fn only(active: bool) -> Filter {
    Filter {
        active: Some(active),
        ..Filter::default()
    }
}

pub(crate) async fn list_all(
    ctx: &Ctx,
    args: ConnectListAllDomains,
    flags: Flags,
) -> Reply<ConnectListAllDomainsRet> {
    let flags = flags.checked()?;
    let found = all(ctx, filter(flags)).await?;
    let ret = u32::try_from(found.len()).unwrap_or(u32::MAX);
    let wanted = if args.need_results == 0 { &[] } else { &found[..] };
    Ok(ConnectListAllDomainsRet {
        domains: wanted.iter().map(NonnullDomain::from).collect(),
        ret,
    })
}

pub(crate) async fn list_active(ctx: &Ctx, args: ConnectListDomains) -> Reply<ConnectListDomainsRet> {
    let most = args::count("maxids", args.maxids, MOST)?;
    let ids = all(ctx, only(true)).await?.into_iter().map(|guest| guest.id);
    Ok(ConnectListDomainsRet {
        ids: ids.take(most).collect(),
    })
}

pub(crate) async fn list_inactive(
    ctx: &Ctx,
    args: ConnectListDefinedDomains,
) -> Reply<ConnectListDefinedDomainsRet> {
    let most = args::count("maxnames", args.maxnames, MOST)?;
    let found = all(ctx, only(false)).await?.into_iter();
    Ok(ConnectListDefinedDomainsRet {
        names: found.take(most).map(|guest| guest.name.to_vec().into()).collect(),
    })
}

pub(crate) async fn number_of_active(ctx: &Ctx, _: ConnectNumOfDomains) -> Reply<ConnectNumOfDomainsRet> {
    let num = number(ctx, true).await?;
    Ok(ConnectNumOfDomainsRet { num })
}

pub(crate) async fn number_of_inactive(
    ctx: &Ctx,
    _: ConnectNumOfDefinedDomains,
) -> Reply<ConnectNumOfDefinedDomainsRet> {
    let num = number(ctx, false).await?;
    Ok(ConnectNumOfDefinedDomainsRet { num })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_flags_together_asks_nothing() {
        assert_eq!(filter(0), Filter::default());
        assert_eq!(filter(0x3 | 0xc | 0xff00), Filter::default());
        assert_eq!(filter(2), only(false));
        let expected = Filter {
            active: Some(true),
            autostart: Some(false),
            states: vec![State::Paused.into(), State::Shutoff.into()],
            ..Filter::default()
        };
        assert_eq!(filter(0x1 | 0x800 | 32 | 64), expected);
    }
}
