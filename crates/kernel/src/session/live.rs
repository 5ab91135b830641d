//! The words that a supervisor writes while the programs run.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::ClockId;

use crate::abi;
use crate::fill::PolicyRows;
use crate::read::nanoseconds;

/// `struct bs_live` in the map's memory, which is mapped as long as the skeleton lives. The kernel reads each
/// word with plain loads at any time; so they are written volatile, whole, and one at a time.
pub(super) struct Live {
    heartbeat_ns: NonNull<u64>,
    cgroup_id: NonNull<u64>,
    enforce: NonNull<u32>,
    break_glass: NonNull<u32>,
    open_families: NonNull<u32>,
    hides: NonNull<u32>,
    generation: NonNull<u32>,
    coming: NonNull<u32>,
    suspended_ns: NonNull<u64>,
    cgroup_level: NonNull<u32>,
    subject_count: NonNull<u64>,
    acting: NonNull<[u64]>,
    policies: [NonNull<abi::bs_policy>; 2],
    kinds: [NonNull<[[u8; 256]; 2]>; 2],
}

impl Live {
    pub(super) fn new(variables: &mut abi::bss) -> Self {
        let abi::bss {
            live,
            subject_count,
            acting,
            policies: [even, odd],
            kinds_of_octets: [even_kinds, odd_kinds],
            ..
        } = variables;
        Self {
            heartbeat_ns: NonNull::from(&mut live.heartbeat_ns),
            cgroup_id: NonNull::from(&mut live.cgroup_id),
            enforce: NonNull::from(&mut live.enforce),
            break_glass: NonNull::from(&mut live.break_glass),
            open_families: NonNull::from(&mut live.open_families),
            hides: NonNull::from(&mut live.hides),
            generation: NonNull::from(&mut live.generation),
            coming: NonNull::from(&mut live.coming),
            suspended_ns: NonNull::from(&mut live.suspended_ns),
            cgroup_level: NonNull::from(&mut live.cgroup_level),
            subject_count: NonNull::from(subject_count),
            acting: NonNull::from(&mut acting[..]),
            policies: [NonNull::from(even), NonNull::from(odd)],
            kinds: [NonNull::from(even_kinds), NonNull::from(odd_kinds)],
        }
    }

    /// Describe a policy in a place that no program reads yet.
    pub(super) fn set_policy(&self, place: usize, rows: &PolicyRows) {
        // SAFETY: points into the mapped map; until the generation is raised no program reads this place.
        unsafe { self.policies[place].write_volatile(rows.head) };
        // SAFETY: as above.
        unsafe { self.kinds[place].write_volatile(rows.kinds) };
    }

    pub(super) fn generation(&self) -> u32 {
        // SAFETY: points into the mapped map, and only this thread writes it.
        unsafe { self.generation.read_volatile() }
    }

    pub(super) fn set_generation(&self, generation: u32) {
        // SAFETY: as above.
        unsafe { self.generation.write_volatile(generation) };
    }

    pub(super) fn enforce(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.enforce.read_volatile() != 0 }
    }

    pub(super) fn break_glass(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.break_glass.read_volatile() != 0 }
    }

    pub(super) fn set_coming(&self, coming: u32) {
        // SAFETY: as above.
        unsafe { self.coming.write_volatile(coming) };
    }

    pub(super) fn set_break_glass(&self) {
        // SAFETY: as above.
        unsafe { self.break_glass.write_volatile(1) };
    }

    pub(super) fn set_open_families(&self) {
        // SAFETY: as above.
        unsafe { self.open_families.write_volatile(1) };
    }

    pub(super) fn set_hides(&self) {
        // SAFETY: as above.
        unsafe { self.hides.write_volatile(1) };
    }

    pub(super) fn set_heartbeat(&self, now_ns: u64) {
        // SAFETY: points into the mapped map, and only this process's one supervisor thread writes.
        unsafe { self.heartbeat_ns.write_volatile(now_ns) };
    }

    /// How long the host was suspended up to now: what the cheap clock of the programs does not know.
    pub(super) fn set_suspended(&self) {
        let suspended = nanoseconds(ClockId::Boottime) - nanoseconds(ClockId::Monotonic);
        // SAFETY: as above.
        unsafe { self.suspended_ns.write_volatile(suspended.max(0) as u64) };
    }

    pub(super) fn set_cgroup_id(&self, id: u64) {
        // SAFETY: as above.
        unsafe { self.cgroup_id.write_volatile(id) };
    }

    /// How deep the cgroup lies is to be found out again.
    pub(super) fn forget_level(&self) {
        // SAFETY: as above; a program that finds it out again writes a whole word as well.
        unsafe { self.cgroup_level.write_volatile(0) };
    }

    /// Which subject who is. To be called while no program runs.
    pub(super) fn forget_acting(&self) {
        // SAFETY: points into the mapped map, and nobody else reads or writes it meanwhile.
        let acting = unsafe { &mut *self.acting.as_ptr() };
        acting.fill(0);
    }

    /// A number for a subject, which no program gives to another one.
    pub(super) fn number_subject(&self) -> u64 {
        // SAFETY: points into the mapped map, aligned; programs add to it by atomic instructions only.
        let count = unsafe { AtomicU64::from_ptr(self.subject_count.as_ptr()) };
        count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many numbers were given to subjects.
    pub(super) fn subjects(&self) -> u64 {
        // SAFETY: as above.
        let count = unsafe { AtomicU64::from_ptr(self.subject_count.as_ptr()) };
        count.load(Ordering::Relaxed)
    }

    pub(super) fn set_enforce(&self, enforce: bool) {
        // SAFETY: as above.
        unsafe { self.enforce.write_volatile(u32::from(enforce)) };
    }
}
