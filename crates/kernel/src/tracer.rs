//! One instance of the programs on the host's forks, execs and exits, for all guards of a process.
//!
//! What every process of the host pays for being looked at must not grow with the number of guards: `tracer.bpf.c` finds out whom
//! an event concerns, and calls that guard's own programs. There is no state to be shared but who is whose.
//!
//! It outlives the process that made it as its guards do: each one's pins hold all of it, and it ends with the last of them.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, Object, libbpf_sys};

use crate::abi::{TracerSkelBuilder, bs_tracer_room, value};
use crate::complaint::{load_error, say};
use crate::session::Feature;
use crate::skipped::Skipped;
use crate::{Error, ErrorKind};

/// In the order in which they are attached: who knows a process hears of its end before who has it in its cgroup, since with that
/// it is known no more.
const PROGRAMS: [&str; 7] = [
    "bs_home_fork",
    "bs_place_fork",
    "bs_home_exec",
    "bs_place_exec",
    "bs_home_exit",
    "bs_place_exit",
    "bs_home_move",
];

/// A guard's programs, and the table of the tracer's that each is called from.
const CALLED: [(&str, &str); 4] = [
    ("bs_fork", "bs_forks"),
    ("bs_exec", "bs_execs"),
    ("bs_exit", "bs_exits"),
    ("bs_move", "bs_moves"),
];

const GUARDS: &str = "bs_guards";
const HOMES: &str = "bs_homes";
/// The guard's table of its processes, as it is pinned beside the tracer's.
const PROCESSES: &str = "processes";
/// Where a guard pins it all, in the directory of its layout: the guard's number follows.
const PINNED: &str = "tracer-";

/// The tracer's tables.
struct Tables {
    guards: MapHandle,
    homes: MapHandle,
    called: Vec<MapHandle>,
}

impl Tables {
    fn new(find: impl Fn(&str) -> Result<MapHandle, Error>) -> Result<Self, Error> {
        Ok(Self {
            guards: find(GUARDS)?,
            homes: find(HOMES)?,
            called: CALLED
                .iter()
                .map(|(_, table)| find(table))
                .collect::<Result<_, _>>()?,
        })
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &MapHandle)> {
        let called = CALLED.iter().zip(&self.called);
        called
            .map(|((_, table), map)| (*table, map))
            .chain([(GUARDS, &self.guards), (HOMES, &self.homes)])
    }

    /// The numbers of guards that live somewhere.
    fn numbers(&self) -> BTreeSet<u32> {
        let at = |key: Vec<u8>| self.guards.lookup(&key, MapFlags::ANY).ok().flatten();
        let rows = self.guards.keys().filter_map(at);
        rows.filter_map(|row| value(&row)).collect()
    }

    /// Call the guard with this number no more. Its number is free when its cgroup is gone from the table, hence that last.
    fn forget(&self, number: u32, processes: &MapHandle) {
        let key = number.to_ne_bytes();
        for table in &self.called {
            // Not there: a kernel without that feature, or told already.
            let _ = table.delete(&key);
        }
        let is_its = |row: libbpf_rs::Result<Option<Vec<u8>>>| {
            row.ok().flatten().and_then(|row| value::<u32>(&row)) == Some(number)
        };
        for tgid in processes.keys().collect::<Vec<_>>() {
            if is_its(self.homes.lookup(&tgid, MapFlags::ANY)) {
                let _ = self.homes.delete(&tgid);
            }
        }
        for cgroup in self.guards.keys().collect::<Vec<_>>() {
            if is_its(self.guards.lookup(&cgroup, MapFlags::ANY)) {
                let _ = self.guards.delete(&cgroup);
            }
        }
    }
}

/// The programs, attached to the host; as long as this lives, or a guard of theirs that is pinned.
pub struct Tracer {
    tables: Tables,
    links: Vec<(&'static str, OwnedFd)>,
    programs: Vec<OwnedFd>,
    /// Numbers of guards in this process.
    taken: Mutex<BTreeSet<u32>>,
}

impl Tracer {
    /// Load and attach.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`] without the capabilities, [`ErrorKind::Unsupported`] and [`ErrorKind::Verifier`] where the kernel
    /// does not take them: each guard has to have its own then.
    pub fn load() -> Result<Self, Error> {
        libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, say)));
        let unsupported =
            |doing: String, error| Error::caused(ErrorKind::Unsupported, doing, error);
        let mut storage = MaybeUninit::uninit();
        let open = TracerSkelBuilder::default()
            .open(&mut storage)
            .map_err(|error| unsupported("open the tracer".to_owned(), error))?;
        let mut skeleton = open.load().map_err(load_error)?;
        let tables = Tables::new(|name| {
            let mut maps = skeleton.object().maps();
            let map = maps
                .find(|map| map.name() == name)
                .ok_or_else(|| Error::new(ErrorKind::Layout, format!("find the map {name}")))?;
            MapHandle::try_from(&map).map_err(|error| {
                Error::caused(ErrorKind::Io, format!("hold the map {name}"), error)
            })
        })?;
        let (mut links, mut held_programs) = (Vec::new(), Vec::new());
        for name in PROGRAMS {
            let mut programs = skeleton.object_mut().progs_mut();
            let program = programs.find(|program| program.name() == name);
            let program = program.ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, format!("find the program {name}"))
            })?;
            let link = program
                .attach_trace()
                .map_err(|error| unsupported(format!("attach the program {name}"), error))?;
            let held = link.as_fd().try_clone_to_owned().map_err(|error| {
                Error::caused(ErrorKind::Io, format!("hold the link of {name}"), error)
            })?;
            links.push((name, held));
            let held = program.as_fd().try_clone_to_owned().map_err(|error| {
                Error::caused(ErrorKind::Io, format!("hold the program {name}"), error)
            })?;
            held_programs.push(held);
        }
        Ok(Self {
            tables,
            links,
            programs: held_programs,
            taken: Mutex::default(),
        })
    }

    /// A number for a guard.
    pub(crate) fn enrol(self: &Arc<Self>) -> Result<Enrolled, Error> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are kept without anybody in this process, too.
        let living = self.tables.numbers();
        let number = (0..bs_tracer_room::BS_GUARDS.0)
            .find(|number| !taken.contains(number) && !living.contains(number))
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "have one guard more"))?;
        taken.insert(number);
        Ok(Enrolled {
            tracer: Arc::clone(self),
            number,
            cgroup: None,
            processes: None,
            pins: None,
        })
    }
}

/// A guard among those that share a tracer; until it is dropped, or, once it is pinned, until it is told to leave.
pub(crate) struct Enrolled {
    tracer: Arc<Tracer>,
    number: u32,
    /// Where it lives.
    cgroup: Option<u64>,
    processes: Option<MapHandle>,
    pins: Option<PathBuf>,
}

impl Enrolled {
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Count what the kernel leaves out of the tracer from now on.
    pub(crate) fn watch(&self, skipped: &mut Skipped) -> Result<(), Error> {
        let mut programs = self.tracer.programs.iter();
        programs.try_for_each(|program| skipped.watch(program.as_fd()))
    }

    /// Who knows which process, to be written by the guard's programs.
    pub(crate) fn homes(&self) -> BorrowedFd<'_> {
        self.tracer.tables.homes.as_fd()
    }

    /// Have these programs called for what concerns it. `processes` is its table of them.
    pub(crate) fn call(&mut self, object: &Object, processes: &MapHandle) -> Result<(), Error> {
        let failed = |error| Error::caused(ErrorKind::Unsupported, "share the tracer", error);
        self.processes = Some(MapHandle::try_from(processes).map_err(failed)?);
        let tracing = [Feature::Processes, Feature::Leavers];
        for ((name, _), table) in CALLED.iter().zip(&self.tracer.tables.called) {
            let known = tracing
                .iter()
                .any(|feature| feature.programs().contains(name));
            debug_assert!(known, "{name} is of a feature that traces");
            let program = object.progs().find(|program| program.name() == *name);
            let Some(program) = program.filter(libbpf_rs::Program::autoload) else {
                continue;
            };
            let fd = program.as_fd().as_raw_fd();
            table
                .update(&self.number.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// It lives in the cgroup with this id, and nowhere else.
    pub(crate) fn live_in(&mut self, cgroup: u64) -> Result<(), Error> {
        if self.cgroup == Some(cgroup) {
            return Ok(());
        }
        let guards = &self.tracer.tables.guards;
        let failed = |error| Error::caused(ErrorKind::Io, "tell the tracer of a cgroup", error);
        guards
            .update(
                &cgroup.to_ne_bytes(),
                &self.number.to_ne_bytes(),
                MapFlags::ANY,
            )
            .map_err(failed)?;
        if let Some(before) = self.cgroup.replace(cgroup) {
            guards.delete(&before.to_ne_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    /// It knows this process, by what its own programs have not seen.
    pub(crate) fn met(&self, tgid: u32) {
        let homes = &self.tracer.tables.homes;
        let number = self.number.to_ne_bytes();
        // No room: it hears of it as long as it lives where it does.
        let _ = homes.update(&tgid.to_ne_bytes(), &number, MapFlags::ANY);
    }

    /// Have all of it outlive this process, by pins in a directory of its own in `layout`.
    pub(crate) fn pin(&mut self, layout: &Path) -> Result<(), Error> {
        let dir = layout.join(format!("{PINNED}{}", self.number));
        let failed = |error| {
            Error::caused(
                ErrorKind::Io,
                format!("pin the tracer in {}", dir.display()),
                error,
            )
        };
        fs::create_dir(&dir).map_err(failed)?;
        for (name, map) in self.tracer.tables.named() {
            pin(map.as_fd(), &dir.join(name)).map_err(failed)?;
        }
        if let Some(processes) = &self.processes {
            pin(processes.as_fd(), &dir.join(PROCESSES)).map_err(failed)?;
        }
        for (name, link) in &self.tracer.links {
            pin(link.as_fd(), &dir.join(format!("link_{name}"))).map_err(failed)?;
        }
        self.pins = Some(dir);
        Ok(())
    }

    /// Be called no more.
    pub(crate) fn leave(&mut self) -> Result<(), Error> {
        if let Some(processes) = &self.processes {
            self.tracer.tables.forget(self.number, processes);
        }
        self.cgroup = None;
        match self.pins.take().map(fs::remove_dir_all) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(Error::caused(
                ErrorKind::Io,
                "remove the pins of the tracer",
                error,
            )),
            _ => Ok(()),
        }
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        // What is pinned goes on, and has its number by that.
        if self.pins.is_none() {
            let _ = self.leave();
        }
        let mut taken = self
            .tracer
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.number);
    }
}

/// The directories in which a guard has pinned its tracer, and its number there.
fn pinned(layout: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir(layout).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name();
        let number = name.to_str()?.strip_prefix(PINNED)?.parse().ok()?;
        Some((number, entry.path()))
    })
}

fn open_pinned(dir: &Path, name: &str) -> Result<MapHandle, Error> {
    MapHandle::from_pinned_path(dir.join(name))
        .map_err(|error| Error::caused(ErrorKind::Io, format!("open the pinned map {name}"), error))
}

/// The kernel's ids of the programs of a guard that the tracer calls which it has pinned in the directory of its layout.
pub(crate) fn called_by_pinned(layout: &Path) -> BTreeSet<u32> {
    let mut programs = BTreeSet::new();
    for (number, dir) in pinned(layout) {
        for (_, table) in CALLED {
            let table = open_pinned(&dir, table).ok();
            // Read from here, such a table says by which id it knows a program.
            let row =
                table.and_then(|table| table.lookup(&number.to_ne_bytes(), MapFlags::ANY).ok()?);
            programs.extend(row.and_then(|row| value::<u32>(&row)));
        }
    }
    programs
}

/// Count what the kernel leaves out of a tracer that a guard has pinned in the directory of its layout.
pub(crate) fn watch_pinned(skipped: &mut Skipped, layout: &Path) {
    for (_, dir) in pinned(layout) {
        skipped.watch_pinned(&dir, PROGRAMS);
    }
}

/// Have a guard called no more that somebody has left behind, by what it has pinned in the directory of its layout. The pins
/// themselves are left to who removes all of them.
pub(crate) fn forget_pinned(layout: &Path) {
    for (number, dir) in pinned(layout) {
        let open = |name: &str| open_pinned(&dir, name);
        match (Tables::new(open), open(PROCESSES)) {
            (Ok(tables), Ok(processes)) => tables.forget(number, &processes),
            // Pinned in part only: it was never called.
            (Err(error), _) | (_, Err(error)) => tracing::debug!(%error, "a tracer's pins"),
        }
    }
}

/// Pin what a descriptor stands for; as often as one likes, which libbpf's own objects do not let one.
fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the descriptor is open, and the path ends with a NUL.
    let done = unsafe { libbpf_sys::bpf_obj_pin(fd.as_raw_fd(), path.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-done))
    }
}
