//! Which of the host's nodes a guest's memory comes from.

use confine::cgroup::Controller;
use domxml::{
    Bitmap, Domain,
    tuning::{NumaMemory, NumaMode, NumaTune, Placement as By},
};

use crate::{
    domain::View,
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        document::scope::{self, Scope},
        holdings::cgroup::{
            refused,
            thread::{Thread, part_of},
        },
        tuning::{group_with, not_in_session, pinning},
    },
};

const NO_GROUP: &str = "cgroup cpuset controller is not mounted";

/// Where memory comes from; what is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Placement {
    /// How strictly. A running guest's stays as it is, so notes do without it.
    #[serde(skip)]
    pub mode: Option<NumaMode>,
    /// The nodes.
    #[serde(with = "super::words::optional")]
    pub nodes: Option<Bitmap>,
}

/// Where memory comes from, as the document has it.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration.
pub fn read(view: &View, scope: Scope) -> Result<Placement> {
    let domain = scope::read(view, scope)?.domain()?;
    let memory = domain.numatune.as_ref().and_then(|tune| tune.memory.as_ref());
    let mode = memory.and_then(|m| m.mode).unwrap_or(NumaMode::Strict);
    Ok(Placement {
        mode: Some(mode),
        nodes: memory.and_then(|m| m.nodeset.clone()),
    })
}

fn memory(domain: &Domain) -> Option<&NumaMemory> {
    domain.numatune.as_ref()?.memory.as_ref()
}

pub(crate) fn apply(domain: &mut Domain, placement: &Placement) -> Result<()> {
    if placement.nodes.as_ref().is_some_and(Bitmap::is_empty) {
        return Err(Error::argument("Invalid nodeset for 'numatune'"));
    }
    // Only a document of a run has an id.
    if domain.id.is_some() {
        check_live(domain, placement)?;
    }
    let memory = domain
        .numatune
        .get_or_insert_with(NumaTune::default)
        .memory
        .get_or_insert_with(NumaMemory::default);
    memory.mode = Some(placement.mode.or(memory.mode).unwrap_or(NumaMode::Strict));
    if let Some(nodes) = &placement.nodes {
        memory.nodeset = Some(nodes.clone());
        memory.placement = None;
    }
    if memory.nodeset.is_none() && memory.placement != Some(By::Auto) {
        if placement.mode.is_some() {
            let text = "nodeset for NUMA memory tuning must be set if 'placement' is 'static'";
            return Err(Error::new(Code::ConfigUnsupported, text).in_area(Area::Domain));
        }
        // Without nodes there is nothing to place on.
        domain.numatune = domain.numatune.take().filter(|tune| !tune.memnodes.is_empty());
    }
    Ok(())
}

/// QEMU has bound its memory at start: the kernel can only follow where that left it free.
fn check_live(domain: &Domain, placement: &Placement) -> Result<()> {
    let known = memory(domain).map(|m| m.mode.unwrap_or(NumaMode::Strict));
    if let Some(mode) = placement.mode {
        if known.is_some_and(|known| known != mode) {
            return Err(Error::invalid("can't change numatune mode for running domain"));
        }
        if mode == NumaMode::Strict {
            return Err(Error::invalid(
                "can't change nodeset for strict mode for running domain",
            ));
        }
    }
    if placement.nodes.is_some() && known.is_some_and(|known| known != NumaMode::Restrictive) {
        return Err(Error::invalid(
            "change of nodeset for running domain requires restrictive numa mode",
        ));
    }
    Ok(())
}

/// What takes the change of a running guest back: the nodes that the kernel has now.
pub(crate) fn before(driver: &Driver, view: &View, placement: &Placement) -> Result<Placement> {
    not_in_session(driver, "NUMA tuning")?;
    let group = group_with(driver, view, Controller::CpuSet, NO_GROUP)?;
    let text = group.part(part_of(Thread::Emulator)).nodes().map_err(refused)?;
    let nodes = text
        .trim()
        .parse()
        .ok()
        .filter(|nodes: &Bitmap| !nodes.is_empty());
    Ok(Placement {
        mode: None,
        nodes: nodes.filter(|_| placement.nodes.is_some()),
    })
}

/// Whether the host has the nodes that a guest's memory is to lie on.
///
/// # Errors
/// It lacks one.
pub(crate) fn check(driver: &Driver, document: &Domain) -> Result<()> {
    let tune = document.numatune.iter();
    let all = tune
        .clone()
        .filter_map(|tune| tune.memory.as_ref()?.nodeset.as_ref());
    let of_cells = tune.flat_map(|tune| &tune.memnodes).map(|node| &node.nodeset);
    all.chain(of_cells)
        .try_for_each(|nodes| refuse_missing(driver, nodes))
}

/// Whether the host has the nodes that a guest's modules of memory are to lie on.
///
/// # Errors
/// It lacks one.
pub(crate) fn check_modules(driver: &Driver, document: &Domain) -> Result<()> {
    let modules = document
        .devices
        .memories
        .iter()
        .filter_map(|module| module.source.as_ref());
    let of_modules = modules.filter_map(|source| source.nodemask.as_deref()?.parse::<Bitmap>().ok());
    of_modules
        .into_iter()
        .try_for_each(|nodes| refuse_missing(driver, &nodes))
}

fn refuse_missing(driver: &Driver, nodes: &Bitmap) -> Result<()> {
    let directory = driver.host.root.join("sys/devices/system/node");
    let missing = nodes
        .iter()
        .find(|node| !directory.join(format!("node{node}")).exists());
    missing.map_or(Ok(()), |node| {
        let message = format!("NUMA node {node} is unavailable");
        Err(Error::new(Code::ConfigUnsupported, message).in_area(Area::None))
    })
}

pub(crate) fn carry_out(driver: &Driver, view: &View, placement: &Placement) -> Result<()> {
    not_in_session(driver, "NUMA tuning")?;
    let group = group_with(driver, view, Controller::CpuSet, NO_GROUP)?;
    let Some(nodes) = &placement.nodes else {
        return Ok(());
    };
    refuse_missing(driver, nodes)?;
    let run = view.running()?;
    let vcpus = run.status.vcpus.iter().map(|vcpu| Thread::Vcpu(vcpu.id));
    let iothreads = pinning::ids(&run.document.domain).into_iter().map(Thread::Io);
    let threads: Vec<_> = [Thread::Emulator]
        .into_iter()
        .chain(vcpus)
        .chain(iothreads)
        .map(|t| group.part(part_of(t)))
        .collect();
    let before = threads
        .iter()
        .map(|part| part.nodes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    let result = threads
        .iter()
        .try_for_each(|part| part.set_nodes(&nodes.to_string()))
        .map_err(refused);
    if result.is_err() {
        for (part, nodes) in threads.iter().zip(before) {
            if let Err(error) = part.set_nodes(&nodes) {
                tracing::warn!(guest = %view.name, %error, "the guest's nodes of memory are not what they were");
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(live: bool, xml: &str, mode: Option<NumaMode>, nodes: Option<&str>) -> String {
        let text = format!("<domain type='qemu'><name>a</name><os><type>hvm</type></os>{xml}</domain>");
        let mut domain = Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap();
        domain.id = live.then_some(1);
        let placement = Placement {
            mode,
            nodes: nodes.map(|n| n.parse().unwrap()),
        };
        match apply(&mut domain, &placement) {
            Err(error) => error.message.to_string(),
            Ok(()) => memory(&domain).map_or_else(String::new, |m| {
                format!(
                    "{} {}",
                    m.mode.map_or("", NumaMode::as_str),
                    m.nodeset.as_ref().map(ToString::to_string).unwrap_or_default()
                )
            }),
        }
    }

    #[test]
    fn a_run_follows_only_where_it_can() {
        const STRICT: &str = "<numatune><memory mode='strict' nodeset='0'/></numatune>";
        const RESTRICTIVE: &str = "<numatune><memory mode='restrictive' nodeset='0'/></numatune>";
        use NumaMode::{Preferred, Restrictive, Strict};
        for (live, xml, mode, nodes, told) in [
            (false, "", None, Some("0"), "strict 0"),
            (
                false,
                "",
                Some(Preferred),
                None,
                "nodeset for NUMA memory tuning must be set if 'placement' is 'static'",
            ),
            (false, STRICT, Some(Preferred), None, "preferred 0"),
            (true, "", None, Some("0"), "strict 0"),
            (
                true,
                STRICT,
                Some(Preferred),
                None,
                "can't change numatune mode for running domain",
            ),
            (
                true,
                "",
                Some(Strict),
                Some("0"),
                "can't change nodeset for strict mode for running domain",
            ),
            (
                true,
                STRICT,
                None,
                Some("1"),
                "change of nodeset for running domain requires restrictive numa mode",
            ),
            (true, RESTRICTIVE, Some(Restrictive), Some("1"), "restrictive 1"),
        ] {
            assert_eq!(
                tried(live, xml, mode, nodes),
                told,
                "{live} {xml} {mode:?} {nodes:?}"
            );
        }
    }
}
