//! The words that a supervisor writes while the programs run.

use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libbpf_rs::MapHandle;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::time::ClockId;

use crate::fill::PolicyRows;
use crate::read::nanoseconds;
use crate::{Error, ErrorKind, abi};

/// The memory of a map with the programs' variables, mapped as long as this lives.
struct Variables(NonNull<abi::bss>);

// SAFETY: memory that the kernel shares with any thread; what is done with it is said where it is done.
unsafe impl Send for Variables {}
// SAFETY: as above.
unsafe impl Sync for Variables {}

impl Drop for Variables {
    fn drop(&mut self) {
        // SAFETY: mapped by `Live::new` with this length, and whatever points there holds this.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<abi::bss>()) };
    }
}

/// The words by which a run's programs know that somebody looks after it, for whoever says so while its own thread rests.
#[derive(Clone)]
pub struct Heart(Arc<Variables>);

impl Heart {
    /// Say it. To be called at least once a second.
    pub fn beat(&self) {
        self.set_heartbeat(nanoseconds(ClockId::Boottime) as u64);
        self.set_suspended();
    }

    pub(super) fn set_heartbeat(&self, now_ns: u64) {
        let at = self.0.0.as_ptr();
        // SAFETY: a place in the mapping, of which no reference is made.
        let place = unsafe { &raw mut (*at).live.heartbeat_ns };
        // SAFETY: aligned, mapped as long as `self` lives, and written by atomic stores only.
        unsafe { AtomicU64::from_ptr(place) }.store(now_ns, Ordering::Relaxed);
    }

    /// How long the host was suspended up to now: what the cheap clock of the programs does not know.
    pub(super) fn set_suspended(&self) {
        let suspended = nanoseconds(ClockId::Boottime) - nanoseconds(ClockId::Monotonic);
        let at = self.0.0.as_ptr();
        // SAFETY: as above.
        let place = unsafe { &raw mut (*at).live.suspended_ns };
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(place) }.store(suspended.max(0) as u64, Ordering::Relaxed);
    }
}

/// `struct bs_live` in the map's memory. The kernel reads each word with plain loads at any time; so they are written volatile,
/// whole, and one at a time.
pub(super) struct Live {
    /// Holds the memory that all of these lie in.
    heart: Heart,
    cgroup_id: NonNull<u64>,
    enforce: NonNull<u32>,
    break_glass: NonNull<u32>,
    open_families: NonNull<u32>,
    hides: NonNull<u32>,
    generation: NonNull<u32>,
    coming: NonNull<u32>,
    cgroup_level: NonNull<u32>,
    subject_count: NonNull<u64>,
    acting: NonNull<[u64]>,
    policies: [NonNull<abi::bs_policy>; 2],
    kinds: [NonNull<[[u8; 256]; 2]>; 2],
}

impl Live {
    /// Map the variables of a run's programs.
    pub(super) fn new(map: &MapHandle) -> Result<Self, Error> {
        // SAFETY: a new mapping, of no memory that anybody has; the kernel rounds the length up to whole pages, which the map has.
        let mapped = unsafe {
            mmap(
                std::ptr::null_mut(),
                size_of::<abi::bss>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.as_fd(),
                0,
            )
        };
        let failed = |error| Error::caused(ErrorKind::Io, "map the programs' variables", error);
        let mapped = mapped.map_err(failed)?;
        let variables = NonNull::new(mapped.cast::<abi::bss>())
            .ok_or_else(|| failed(rustix::io::Errno::NOMEM))?;
        let at = variables.as_ptr();
        // SAFETY: places in the mapping, of which no reference is made; the skeleton's type is the object's own.
        let live = unsafe { &raw mut (*at).live };
        macro_rules! place {
            ($pointer:expr) => {
                // SAFETY: as above.
                unsafe { NonNull::new_unchecked(&raw mut $pointer) }
            };
        }
        Ok(Self {
            heart: Heart(Arc::new(Variables(variables))),
            cgroup_id: place!((*live).cgroup_id),
            enforce: place!((*live).enforce),
            break_glass: place!((*live).break_glass),
            open_families: place!((*live).open_families),
            hides: place!((*live).hides),
            generation: place!((*live).generation),
            coming: place!((*live).coming),
            cgroup_level: place!((*live).cgroup_level),
            subject_count: place!((*at).subject_count),
            acting: place!((*at).acting),
            policies: [place!((*at).policies[0]), place!((*at).policies[1])],
            kinds: [
                place!((*at).kinds_of_octets[0]),
                place!((*at).kinds_of_octets[1]),
            ],
        })
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

    pub(super) fn hides(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.hides.read_volatile() != 0 }
    }

    pub(super) fn heart(&self) -> &Heart {
        &self.heart
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
