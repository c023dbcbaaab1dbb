//! Whom the journal has told of: follows from its events, and is compared with the files at start-up.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    Happening, lifecycle,
    model::{self as pb, MomentType as Type},
};

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
    /// Its snapshots and checkpoints, as if they were new.
    pub moments: Vec<(pb::EventKind, pb::event::MomentChange)>,
}

/// Snapshots and checkpoints of one guest, by kind and name: the one before it, and whether it is the current one.
type Moments = BTreeMap<(i32, Box<str>), (Box<str>, bool)>;

/// One guest as told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    name: Arc<str>,
    defined: bool,
    id: i32,
    /// libvirt's number of its state; 0 is not known.
    state: i32,
    moments: Moments,
}

impl Told {
    fn note_moment(&mut self, kind: i32, change: &pb::event::MomentChange) {
        let key = (kind, change.name.as_str().into());
        match change.r#type() {
            Type::Deleted => drop(self.moments.remove(&key)),
            _ => drop(
                self.moments
                    .insert(key, (change.parent.as_str().into(), change.current)),
            ),
        }
    }

    /// What was not told of the snapshots and checkpoints of `found`.
    fn missed_moments(told: Option<&Self>, found: &Found) -> Vec<Happening> {
        let empty = Moments::new();
        let told = told.map_or(&empty, |told| &told.moments);
        let tell = |kind, change| Happening {
            uuid: found.uuid,
            name: Arc::clone(&found.name),
            id: found.id,
            kind,
            detail: Some(pb::event::Detail::Moment(change)),
        };
        let there = found.moments.iter();
        let there: HashSet<_> = there
            .map(|(kind, change)| (i32::from(*kind), &*change.name))
            .collect();
        let gone = told
            .keys()
            .filter(|(kind, name)| !there.contains(&(*kind, &**name)));
        let mut missed: Vec<_> = gone
            .filter_map(|(kind, name)| {
                let change = pb::event::MomentChange {
                    r#type: Type::Deleted.into(),
                    name: name.to_string(),
                    ..Default::default()
                };
                Some(tell(pb::EventKind::try_from(*kind).ok()?, change))
            })
            .collect();
        for (kind, change) in &found.moments {
            let r#type = match told.get(&(i32::from(*kind), change.name.as_str().into())) {
                None => Type::Created,
                Some((parent, current)) if **parent == *change.parent && *current == change.current => {
                    continue;
                }
                Some(_) => Type::Changed,
            };
            let r#type = r#type.into();
            let change = pb::event::MomentChange {
                r#type,
                ..change.clone()
            };
            missed.push(tell(*kind, change));
        }
        missed
    }
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
        let told = |f: &Found| {
            let mut told = Told {
                name: Arc::clone(&f.name),
                defined: f.defined,
                id: f.id,
                state: f.state.0,
                moments: Moments::new(),
            };
            for (kind, change) in &f.moments {
                told.note_moment((*kind).into(), change);
            }
            told
        };
        Self {
            guests: found.iter().map(|f| (f.uuid, told(f))).collect(),
        }
    }

    /// Takes in one event.
    pub(super) fn note(&mut self, event: &pb::Event) {
        let Ok(uuid) = Uuid::parse_str(&event.uuid) else {
            return;
        };
        let change = match &event.detail {
            Some(pb::event::Detail::Lifecycle(change)) => change,
            Some(pb::event::Detail::Moment(change)) => {
                if let Some(told) = self.guests.get_mut(&uuid) {
                    told.note_moment(event.kind, change);
                }
                return;
            }
            _ => return,
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
            moments: Moments::new(),
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
            missed.extend(Told::missed_moments(told, guest));
        }
        missed
    }

    /// As bytes for a segment's head: uuid; state, whether it is defined and whether it has snapshots or checkpoints; id;
    /// name; number of these, and of each its kind, whether it is the current one, its name and that of the one before it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.guests.len() * 48);
        for (uuid, told) in &self.guests {
            out.extend(uuid.as_bytes());
            let has_moments = u8::from(!told.moments.is_empty()) << 7;
            out.push(
                has_moments | u8::try_from(told.state & 0x3f).unwrap_or(0) << 1 | u8::from(told.defined),
            );
            out.extend(told.id.to_le_bytes());
            put_text(&mut out, &told.name);
            if told.moments.is_empty() {
                continue;
            }
            out.extend(u32::try_from(told.moments.len()).unwrap_or(0).to_le_bytes());
            for ((kind, name), (parent, current)) in &told.moments {
                out.extend(kind.to_le_bytes());
                out.push(u8::from(*current));
                put_text(&mut out, name);
                put_text(&mut out, parent);
            }
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
            let (name, rest) = text(rest)?;
            let (moments, rest) = match flags & 0x80 {
                0 => (Moments::new(), rest),
                _ => moments(rest)?,
            };
            let told = Told {
                name: name.into(),
                defined: flags & 1 != 0,
                id: i32::from_le_bytes(*id),
                state: i32::from(flags & 0x7f) >> 1,
                moments,
            };
            guests.insert(Uuid::from_bytes(*uuid), told);
            bytes = rest;
        }
        Some(Self { guests })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A text and what follows it.
fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// Snapshots and checkpoints, and what follows them.
fn moments(bytes: &[u8]) -> Option<(Moments, &[u8])> {
    let (count, mut bytes) = bytes.split_first_chunk::<4>()?;
    let mut moments = Moments::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (kind, rest) = bytes.split_first_chunk::<4>()?;
        let (current, rest) = rest.split_first()?;
        let (name, rest) = text(rest)?;
        let (parent, rest) = text(rest)?;
        moments.insert(
            (i32::from_le_bytes(*kind), name.into()),
            (parent.into(), *current != 0),
        );
        bytes = rest;
    }
    Some((moments, bytes))
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
