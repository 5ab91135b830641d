//! A policy's tables in the kernel: room for two, so that a new policy takes over from one attempt to the next.
//!
//! The order is abi.h's, at `struct bs_policy`: the new one is written to the place that nobody reads; what
//! is kept of names and processes is worked out for it while the programs keep both; then one word
//! says that it judges.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use blackstart_core::report::Mode;
use blackstart_core::tables::{ClassId, Tables};
use libbpf_rs::skel::{OpenSkel as _, Skel as _};
use libbpf_rs::{MapCore, MapFlags, MapHandle, ProgramInput};
use rustix::thread::{MembarrierCommand, membarrier};

use crate::abi::{self, Plain};
use crate::complaint::load_error;
use crate::fill::{EDGES_BEHIND, Offsets, PolicyRows, Rows, place_edges};
use crate::read::name_of;
use crate::{Error, ErrorKind, Session};

use super::known::{known_addresses, write_known};
use super::object::{note_refusals, opened, set_constants, share};
use super::{Feature, Live, Maps, Settings, claim};

/// Bound on the entries of tables that take memory for rows only.
const PLENTY: u32 = 1 << 22;

/// A table of edges is not made larger than this so that all find their places; 2 GiB for the two policies.
const MOST_HOMES: u32 = 1 << 25;

/// Where neither the kernel nor a barrier says that every program has ended that began before, they have after
/// this: none runs longer than some microseconds.
const GRACE: Duration = Duration::from_millis(100);

/// Names of /etc/hosts and known addresses that a session has room for which was loaded for any policy.
pub(crate) const SPARE_FIXED: usize = 2048;

/// Rounds of looking for processes that came while selectors were worked out.
const ROUNDS: usize = 8;

/// How many rows each of the two policies may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    states: u32,
    /// Homes in the table of edges; a power of two.
    homes: u32,
    classes: u32,
    choices: u32,
    steps: u32,
    ends: u32,
}

impl Room {
    /// For a policy, and one that is a quarter larger, or somewhat larger than a small one.
    pub(crate) fn for_policy(rows: &PolicyRows) -> Self {
        let with_headroom = |rows: u32| rows + rows / 4 + 250;
        // At most every other row in use, so that edges lie close to their homes.
        let mut homes = (2 * with_headroom(rows.edges.len() as u32)).next_power_of_two();
        while homes < MOST_HOMES && place_edges(&rows.edges, homes).is_none() {
            homes *= 2;
        }
        Self {
            states: with_headroom(rows.states.len()),
            homes,
            classes: with_headroom(rows.classes.len()),
            choices: with_headroom(rows.choices.len()),
            // Path patterns make more steps than one would guess.
            steps: with_headroom(rows.steps.len()) + (1 << 12),
            ends: with_headroom(rows.ends.len()),
        }
    }

    /// For a policy that is not known yet.
    pub(crate) fn for_any_usual() -> Self {
        Self {
            states: 4096,
            homes: 8192,
            classes: 1024,
            choices: 1024,
            steps: 1 << 13,
            ends: 1024,
        }
    }

    /// That of maps that are there.
    pub(super) fn of(maps: &Maps) -> Self {
        let half = |map: &MapHandle| map.max_entries() / 2;
        Self {
            states: half(&maps.bs_states),
            homes: half(&maps.bs_edges).saturating_sub(EDGES_BEHIND),
            classes: half(&maps.bs_classes),
            choices: half(&maps.bs_choices),
            steps: half(&maps.bs_steps),
            ends: half(&maps.bs_ends),
        }
    }

    /// Give the maps their sizes, those of names and leases with room for as many `fixed` rows.
    pub(crate) fn size(
        &self,
        open: &mut abi::OpenBlackstartSkel<'_>,
        fixed: u32,
    ) -> Result<(), Error> {
        let failed = |error| Error::caused(ErrorKind::Io, "size the policy's tables", error);
        let maps = &mut open.maps;
        for (map, rows) in [
            (&mut maps.bs_states, self.states),
            (&mut maps.bs_edges, self.edges()),
            (&mut maps.bs_classes, self.classes),
            (&mut maps.bs_choices, self.choices),
            (&mut maps.bs_steps, self.steps),
            (&mut maps.bs_ends, self.ends),
        ] {
            map.set_max_entries(2 * rows).map_err(failed)?;
        }
        for map in [
            &mut maps.bs_ports,
            &mut maps.bs_prefixes_even,
            &mut maps.bs_prefixes_odd,
        ] {
            map.set_max_entries(PLENTY).map_err(failed)?;
        }
        // What the loader fills in must not be missing to the run.
        for map in [
            &mut maps.bs_names,
            &mut maps.bs_answers,
            &mut maps.bs_leases,
        ] {
            let own = map.max_entries();
            map.set_max_entries(own + fixed).map_err(failed)?;
        }
        Ok(())
    }

    /// Rows of the table of edges for one policy.
    fn edges(&self) -> u32 {
        self.homes + EDGES_BEHIND
    }

    /// Where the rows of the policy in a place begin.
    pub(super) fn offsets(&self, place: u32, rule: u32) -> Offsets {
        Offsets {
            state: place * self.states,
            class: place * self.classes,
            choice: place * self.choices,
            step: place * self.steps,
            end: place * self.ends,
            rule,
        }
    }

    /// What of a policy there is no room for.
    fn lacks(&self, rows: &PolicyRows) -> Option<&'static str> {
        [
            ("names", rows.states.len(), self.states),
            ("labels of names", rows.edges.len() as u32, self.homes / 2),
            ("different rules", rows.classes.len(), self.classes),
            (
                "combinations of processes",
                rows.choices.len(),
                self.choices,
            ),
            ("paths", rows.steps.len(), self.steps),
            ("paths", rows.ends.len(), self.ends),
        ]
        .into_iter()
        .find(|(_, wanted, there)| wanted > there)
        .map(|(what, ..)| what)
    }
}

/// Write a policy's rows to a place where no program reads, and say where they are.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where an edge would lie too far from its home.
pub(crate) fn write_policy(
    maps: &Maps,
    live: &Live,
    rows: &mut PolicyRows,
    room: &Room,
    place: u32,
) -> Result<(), Error> {
    let first = place * room.edges();
    let edges = place_edges(&rows.edges, room.homes).ok_or_else(|| no_room("labels of names"))?;
    let mut present = Rows::default();
    for (at, edge) in &edges {
        present.push(&(first + at), edge);
    }
    present.write(&maps.bs_edges, "name labels")?;
    rows.head.edges = first;
    rows.head.edge_mask = room.homes - 1;
    rows.states.write(&maps.bs_states, "name states")?;
    rows.classes.write(&maps.bs_classes, "rule classes")?;
    rows.choices.write(&maps.bs_choices, "process choices")?;
    rows.steps.write(&maps.bs_steps, "path steps")?;
    rows.ends.write(&maps.bs_ends, "path ends")?;
    rows.ports.write(&maps.bs_ports, "ports")?;
    let prefixes = if place == 0 {
        &maps.bs_prefixes_even
    } else {
        &maps.bs_prefixes_odd
    };
    rows.prefixes.write(prefixes, "address prefixes")?;
    live.set_policy(place as usize, rows);
    Ok(())
}

fn no_room(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "make room for the new policy: it has more {what} than the tables of this run hold; end the run and begin a new one"
        ),
    )
}

impl Session {
    /// Judge by another policy from the next attempt on. `rules` is how many it has; in the record they are
    /// numbered after those of the policies before. `mode` is the run's from there on.
    ///
    /// Whether anything is refused at all is a word of its own, which a program reads after it has read which policy
    /// judges. So that no attempt is judged by the one policy's rules and by the other's mode, the word says "enforce"
    /// whenever one of the two does: under a policy that enforces nothing it changes no verdict.
    ///
    /// # Errors
    /// The old policy goes on judging. [`ErrorKind::Unsupported`] where the new one is so much larger than
    /// the one that the run began with that the tables have no room for it.
    pub fn reload(&mut self, tables: &Tables, rules: u32, mode: Mode) -> Result<(), Error> {
        let generation = self.live.generation();
        let place = (generation + 1) & 1;
        let mut rows = PolicyRows::new(tables, self.keys, &self.room.offsets(place, self.rules));
        if let Some(what) = self.room.lacks(&rows) {
            return Err(no_room(what));
        }
        self.make_whole()?;
        if tables.uses().claims {
            self.begin_claims()?;
        }
        self.clear_place(place)?;
        write_policy(&self.maps, &self.live, &mut rows, &self.room, place)?;
        self.live.set_coming(generation + 1);
        let filled = self
            .refill_leases(tables, generation + 1, self.room.offsets(place, 0).class)
            .and_then(|()| self.refill_selectors(tables, generation + 1));
        if filled.is_ok() {
            if mode == Mode::Enforce && !self.live.enforce() {
                self.live.set_enforce(true);
                // No program may see the new policy and not this word, whatever the order of a processor's writes.
                wait_for_programs();
            }
            self.live.set_generation(generation + 1);
        }
        // Who began under the old policy keeps leases for both to its end; then that one's place is free.
        wait_for_programs();
        self.live.set_coming(0);
        filled?;
        self.live.set_enforce(mode == Mode::Enforce);
        self.first_rule = self.rules;
        self.rules += rules;
        Ok(())
    }

    /// Judge by this policy from the start, in a session that was loaded for any ([`Session::spare`]). To be called while nobody
    /// is in its cgroup: what is written in several steps is judged by in between.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the tables have no room for it.
    pub fn fill(&mut self, settings: &Settings<'_>) -> Result<(), Error> {
        let mut rows = PolicyRows::new(settings.tables, self.keys, &self.room.offsets(0, 0));
        let fixed = settings.hosts.len() + known_addresses(settings.known()).0.len();
        if let Some(what) = self.room.lacks(&rows) {
            return Err(no_room(what));
        }
        if fixed > SPARE_FIXED {
            return Err(no_room("names of /etc/hosts"));
        }
        // Thousands of rows, that need not be written to say what they say already.
        if self.nameless {
            self.clear_keyed(0)?;
        } else {
            self.clear_place(0)?;
        }
        self.nameless = false;
        write_policy(&self.maps, &self.live, &mut rows, &self.room, 0)?;
        self.left_out = write_known(&self.maps, settings, self.keys)?;
        self.rules = settings.rules;
        Ok(())
    }

    /// Put programs that know everything in the place of those that know what the first policy used. Both judge alike by
    /// the policy that is there, so that it does not matter which of them meets an attempt meanwhile.
    fn make_whole(&mut self) -> Result<(), Error> {
        if self.whole.is_some() {
            return Ok(());
        }
        let replaced: BTreeSet<Feature> = self
            .features
            .iter()
            .copied()
            .filter(|feature| !feature.is_tracing() && !feature.judges_whole())
            .collect();
        let mut whole = self.load_beside(&replaced)?;
        if self.features.contains(&Feature::Claims) {
            claim::attach_whole_reader(&mut whole, self.claimants())?;
        }
        let failed = |error| Error::caused(ErrorKind::Io, "put the programs in place", error);
        for (name, link) in &mut self.links {
            let program = whole
                .object()
                .progs()
                .find(|program| program.name() == *name);
            if let Some(program) = program.filter(|program| program.autoload()) {
                link.update_prog(&program).map_err(failed)?;
            }
        }
        self.whole = Some(whole);
        Ok(())
    }

    /// Read the names that connections give, if that was not done before.
    fn begin_claims(&mut self) -> Result<(), Error> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(());
        };
        if self.features.contains(&Feature::Claims) {
            return Ok(());
        }
        let mut beside = self.load_beside(&BTreeSet::from([Feature::Claims]))?;
        let table = self.claimants();
        let link = claim::begin(&mut beside, table, cgroup.as_fd(), self.pins.as_deref())?;
        self.links.push((claim::BRINGER, link));
        self.features.insert(Feature::Claims);
        self.reader = Some(beside);
        Ok(())
    }

    /// Programs of any policy over the same maps, and the one that writes rows for user space.
    pub(super) fn load_beside(
        &self,
        features: &BTreeSet<Feature>,
    ) -> Result<Box<abi::BlackstartSkel<'static>>, Error> {
        let mut open = opened(features, self.forwarder.is_some())?;
        open.progs.bs_refill_one.set_autoload(true);
        share(&mut open, self.enrolled.as_ref())?;
        set_constants(&mut open, self.keys, abi::zeroed(), self.forwarder.as_ref());
        note_refusals(&mut open, features);
        let failed = |error| Error::caused(ErrorKind::Io, "load further programs", error);
        for mut map in open.open_object_mut().maps_mut() {
            let name = map.name().to_owned();
            // Constants are what the two differ in.
            if let Some(own) = name.to_str().and_then(|name| self.maps.find(name)) {
                map.reuse_fd(own.as_fd()).map_err(failed)?;
            }
        }
        open.load().map(Box::new).map_err(load_error)
    }

    /// Remove what an earlier policy left in a place. Arrays are simply written over, but for the one in which a row
    /// without an edge says something.
    fn clear_place(&mut self, place: u32) -> Result<(), Error> {
        let maps = &self.maps;
        let mut free = Rows::default();
        for at in place * self.room.edges()..(place + 1) * self.room.edges() {
            free.push(&at, &abi::zeroed::<abi::bs_edge>());
        }
        free.write(&maps.bs_edges, "name labels")?;
        self.clear_keyed(place)
    }

    /// Of what an earlier policy left, the rows that are found by a key.
    fn clear_keyed(&mut self, place: u32) -> Result<(), Error> {
        let maps = &self.maps;
        let of = |id: u32, room: u32| (place * room..(place + 1) * room).contains(&id);
        delete_where(&maps.bs_ports, |key: &abi::bs_port_key| {
            of(u32::from_be_bytes(key.class_be), self.room.classes)
        })?;
        let prefixes = if place == 0 {
            &maps.bs_prefixes_even
        } else {
            &maps.bs_prefixes_odd
        };
        delete_where(prefixes, |_: &abi::bs_prefix_key| true)
    }

    /// Classes of every name under which an address was given, in the policy that is coming.
    fn refill_leases(
        &mut self,
        tables: &Tables,
        generation: u32,
        first_class: ClassId,
    ) -> Result<(), Error> {
        // From here on the programs keep new leases for both: what they wrote before is in the table.
        wait_for_programs();
        let mut classes: HashMap<u64, Option<ClassId>> = HashMap::new();
        for key in keys_of(&self.maps.bs_answers) {
            let Some(key) = abi::value::<abi::bs_answer_key>(&key) else {
                continue;
            };
            let Some(answer) = row::<_, abi::bs_answer>(&self.maps.bs_answers, &key) else {
                continue;
            };
            let mut class_of = |id: u64| {
                *classes.entry(id).or_insert_with(|| {
                    let name = row(&self.maps.bs_names, &id).and_then(|row| name_of(&row))?;
                    Some(tables.class_of_name(&name))
                })
            };
            let Some(of_name) = class_of(key.name) else {
                continue;
            };
            let chain = &answer.chain[..(answer.chain_len as usize).min(answer.chain.len())];
            let denying = tables.denying_link(chain.iter().filter_map(|&link| class_of(link)));
            let at = abi::bs_address { addr: key.addr };
            let lease = row::<_, abi::bs_lease>(&self.maps.bs_leases, &at);
            let lease = lease.unwrap_or_else(abi::zeroed);
            let mut slots = lease.slot.iter().zip(lease.until);
            let known = slots.find(|(slot, _)| slot.name == key.name);
            let subject = known.map_or(0, |(slot, _)| slot.subject);
            // Of a name that shares its slot with a later one nobody knows how long it lasts: as long as any.
            let until = match known {
                Some((_, until)) => until,
                None => lease.until.into_iter().max().unwrap_or(0),
            };
            self.refill(&abi::bs_refill {
                name: key.name,
                subject,
                addr: key.addr,
                kind: abi::bs_refill_kind::BS_REFILL_LEASE.0,
                class_id: of_name + first_class,
                deny_class: if denying == 0 {
                    0
                } else {
                    denying + first_class
                },
                recorded: 1,
                generation,
                until,
                ..abi::zeroed()
            })?;
        }
        Ok(())
    }

    /// Selectors of every process that lives, for the policy that is coming.
    fn refill_selectors(&mut self, tables: &Tables, generation: u32) -> Result<(), Error> {
        if tables.selectors.is_empty() {
            return Ok(());
        }
        let mut known: HashMap<u64, u64> = HashMap::new();
        for _ in 0..ROUNDS {
            let mut fresh: HashMap<u64, abi::bs_subject> = HashMap::new();
            for key in keys_of(&self.maps.bs_subjects) {
                let Some(id) = abi::value::<u64>(&key).filter(|id| !known.contains_key(id)) else {
                    continue;
                };
                fresh.extend(row(&self.maps.bs_subjects, &id).map(|row| (id, row)));
            }
            if fresh.is_empty() {
                return Ok(());
            }
            // A parent has the smaller number.
            let mut order: Vec<u64> = fresh.keys().copied().collect();
            order.sort_unstable();
            for id in order {
                let subject = &fresh[&id];
                let from = known.get(&subject.parent).copied().unwrap_or(0);
                let exe = &subject.exe[..usize::from(subject.exe_len).min(subject.exe.len())];
                let bits = if subject.forked != 0 {
                    from
                } else {
                    from & tables.tree_selectors() | tables.selectors_of(exe)
                };
                known.insert(id, bits);
                if subject.ended_ns == 0 {
                    self.refill(&abi::bs_refill {
                        subject: id,
                        bits,
                        kind: abi::bs_refill_kind::BS_REFILL_SELECTORS.0,
                        generation,
                        ..abi::zeroed()
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Have a program write a row as the other programs write it. It is loaded when it is first wanted: few runs need it.
    pub(super) fn refill(&mut self, what: &abi::bs_refill) -> Result<(), Error> {
        if self.whole.is_none() && self.filler.is_none() {
            self.filler = Some(self.load_beside(&BTreeSet::new())?);
        }
        let mut frame = [0; 14 + size_of::<abi::bs_refill>()];
        frame[14..].copy_from_slice(abi::octets(what));
        let input = ProgramInput {
            data_in: Some(&frame),
            ..ProgramInput::default()
        };
        let holder = self.whole.as_mut().or(self.filler.as_mut());
        let holder = holder.expect("one of them was loaded above");
        let ran = holder.progs.bs_refill_one.test_run(input);
        ran.map(drop).map_err(|error| {
            Error::caused(ErrorKind::Io, "write a row of the kernel's tables", error)
        })
    }

    /// Let everything pass from now on, and record what would have been refused as passed on purpose.
    pub fn break_glass(&mut self) {
        self.live.set_break_glass();
        self.live.set_enforce(false);
    }
}

/// The keys of a map, as they are now: some that come or go meanwhile may be missing.
fn keys_of(map: &impl MapCore) -> Vec<Vec<u8>> {
    map.keys().collect()
}

pub(super) fn row<K: Plain, V: Plain>(map: &impl MapCore, key: &K) -> Option<V> {
    let octets = map.lookup(abi::octets(key), MapFlags::ANY).ok()??;
    abi::value(&octets)
}

fn delete_where<K: Plain>(map: &impl MapCore, doomed: impl Fn(&K) -> bool) -> Result<(), Error> {
    for key in keys_of(map) {
        if abi::value(&key).is_some_and(|key| doomed(&key)) {
            map.delete(&key).map_err(|error| {
                Error::caused(
                    ErrorKind::Io,
                    "clear the tables of an earlier policy",
                    error,
                )
            })?;
        }
    }
    Ok(())
}

/// Until every program has ended that began before: they run under RCU, and the kernel's barrier waits for that.
fn wait_for_programs() {
    if membarrier(MembarrierCommand::Global).is_err() {
        sleep(GRACE);
    }
}
