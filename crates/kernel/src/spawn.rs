//! Starting the child: inside its cgroup before its first instruction, and otherwise just as a shell
//! would have started it.
//!
//! `std::process` cannot place a child into a cgroup at birth, and a process that joins later has an
//! unguarded moment. Hence clone3 by hand. Everything that the child touches between clone and exec is
//! prepared before: the supervisor may have threads, so that the child may neither allocate nor lock.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use image::{Image, Stage};
use processes::Processes;

mod contain;
mod filter;
mod hide;
mod image;
mod processes;
mod signals;
#[cfg(test)]
mod tests;

pub use contain::Containment;
pub use filter::SocketFilter;
pub use hide::HiddenSockets;
pub(crate) use image::join_in_child;
pub use processes::Keeper;
pub use signals::{Received, SignalState, Signals, stop_self};

/// `CLONE_INTO_CGROUP`; libc's own constant is cut to 32 bits, and so zero.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What to start, and where.
#[derive(Debug)]
pub struct Command<'a> {
    /// The arguments; the first one is the program, looked up in `PATH` of `env` unless it has a slash.
    pub argv: &'a [OsString],
    /// The whole environment of the child.
    pub env: &'a [(OsString, OsString)],
    /// The cgroup2 directory that the child is born into; without one it stays in the caller's.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` files of further cgroups, open for writing, that the child joins by itself before it becomes the
    /// program: those in hierarchies of the first version, into which no clone places it.
    pub joins: &'a [BorrowedFd<'a>],
    /// What it may not ask the kernel for.
    pub filter: Option<&'a SocketFilter>,
    /// What it is not given of the host.
    pub contain: Option<&'a Containment>,
    /// Which sockets it cannot reach.
    pub hide: Option<&'a HiddenSockets>,
    /// No program that it starts gains privileges by the bits of its file. So the filter needs no root.
    pub no_new_privileges: bool,
    /// Signal mask and dispositions as the caller found them, for the child.
    pub signals: SignalState,
}

/// A child, held by a descriptor that cannot come to mean another process.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// The first process of its pid namespace, if it has one of its own. It ends with the last one in there.
    pub keeper: Option<Keeper>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No such program.
    #[error("{}: command not found", .program.display())]
    NotFound {
        /// As typed.
        program: OsString,
    },
    /// The program is there and cannot be executed.
    #[error("{}: cannot be executed", .program.display())]
    NotExecutable {
        /// As typed.
        program: OsString,
        /// What exec said.
        source: io::Error,
    },
    /// The kernel refused the process one of the cgroups that it was to join.
    #[error("join a cgroup of the run")]
    Join(#[source] io::Error),
    /// The kernel refused to filter its system calls.
    #[error("filter the command's system calls")]
    Filter(#[source] io::Error),
    /// The kernel refused a namespace, a mount, or to take a privilege away.
    #[error("contain the command: {what}")]
    Contain {
        /// What was refused.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused to put sockets out of its reach.
    #[error("put sockets out of the command's reach")]
    Hide(#[source] io::Error),
    /// The kernel refused to make the process, or to place it in its cgroup.
    #[error("start a process in the run's cgroup")]
    Process(#[source] io::Error),
}

impl SpawnError {
    /// The exit code that env(1) and the shells have for this; none where the fault is not the command's.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::NotFound { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            Self::Join(_)
            | Self::Filter(_)
            | Self::Contain { .. }
            | Self::Hide(_)
            | Self::Process(_) => None,
        }
    }
}

const OWN_PROCESSES: &str = "give it a pid namespace";

/// What could not be done to contain the command, if that is where it failed.
fn uncontained(stage: i32) -> Option<&'static str> {
    [
        (Stage::Namespace, "give it mounts and cgroups of its own"),
        (Stage::Mount, "limit what its mounts show"),
        (Stage::Privilege, "take its privileges away"),
    ]
    .into_iter()
    .find_map(|(failed, what)| (stage == failed as i32).then_some(what))
}

/// A child that exists, and waits before it becomes the program. Dropped, it ends.
#[derive(Debug)]
pub struct Held {
    child: Option<Child>,
    program: OsString,
    told: OwnedFd,
    gate: Option<OwnedFd>,
}

/// Start `command`. Returns once it runs the program, or could not.
///
/// The child keeps the caller's process group, session, descriptors 0 to 2 and working directory.
/// SIGPIPE is set back to its default, since Rust's start-up code ignores it.
pub fn spawn(command: &Command<'_>) -> Result<Child, SpawnError> {
    born(command, None)?.outcome()
}

/// The same, with a child that does nothing before it is let go.
pub fn spawn_held(command: &Command<'_>) -> Result<Held, SpawnError> {
    let gate = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let gate = gate.map_err(|e| SpawnError::Process(e.into()))?;
    let mut held = born(command, Some(gate))?;
    // What it gives up before it becomes the program is given up once this returns.
    match held.heard()? {
        Some([stage, _]) if stage == Stage::Gate as i32 => Ok(held),
        told => held.end(told).and_then(|_| {
            let why = "it has ended before it could be let go";
            Err(SpawnError::Process(io::Error::other(why)))
        }),
    }
}

impl Held {
    /// The child.
    pub fn child(&self) -> &Child {
        self.child.as_ref().expect("taken out at the end only")
    }

    /// Let it become the program. Returns once it runs that, or could not.
    pub fn go(mut self) -> Result<Child, SpawnError> {
        if let Some(gate) = self.gate.take() {
            // It may have been killed meanwhile, which its wait status tells.
            let _ = rustix::io::write(&gate, &[1]);
        }
        self.outcome()
    }

    /// Once it runs the program, or could not.
    fn outcome(mut self) -> Result<Child, SpawnError> {
        let told = self.heard()?;
        self.end(told)
    }

    /// What it tells next: where it is, and errno. None once it runs the program, or was killed.
    fn heard(&mut self) -> Result<Option<[i32; 2]>, SpawnError> {
        let mut told = [0u8; 8];
        let mut have = 0;
        while have < told.len() {
            match rustix::io::read(&self.told, &mut told[have..]) {
                // The pipe closed on exec, or the child was killed before it; its wait status will tell which.
                Ok(0) => return Ok(None),
                Ok(n) => have += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(SpawnError::Process(e.into())),
            }
        }
        Ok(Some(
            [&told[..4], &told[4..]].map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])),
        ))
    }

    fn end(mut self, told: Option<[i32; 2]>) -> Result<Child, SpawnError> {
        let child = self.child.take().expect("taken out here only");
        let Some([stage, errno]) = told else {
            return Ok(child);
        };
        reap(&child);
        let source = io::Error::from_raw_os_error(errno);
        let program = std::mem::take(&mut self.program);
        Err(if stage == Stage::Cgroup as i32 {
            SpawnError::Process(source)
        } else if stage == Stage::Join as i32 {
            SpawnError::Join(source)
        } else if stage == Stage::Filter as i32 {
            SpawnError::Filter(source)
        } else if stage == Stage::Hide as i32 {
            SpawnError::Hide(source)
        } else if let Some(what) = uncontained(stage) {
            SpawnError::Contain { what, source }
        } else if errno == libc::ENOENT {
            SpawnError::NotFound { program }
        } else {
            SpawnError::NotExecutable { program, source }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            kill(child);
        }
    }
}

/// Make the process; with a `gate`, it waits for an octet there.
fn born(command: &Command<'_>, gate: Option<(OwnedFd, OwnedFd)>) -> Result<Held, SpawnError> {
    let program = command
        .argv
        .first()
        .map_or(OsStr::new(""), OsString::as_os_str);
    let image = Image::prepare(command).map_err(|source| SpawnError::NotExecutable {
        program: program.to_owned(),
        source,
    })?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| SpawnError::Process(e.into()))?;
    let processes = command.contain.map(|_| Processes::enter());
    let processes = processes
        .transpose()
        .map_err(|source| SpawnError::Contain {
            what: OWN_PROCESSES,
            source,
        })?;
    let ends = gate
        .as_ref()
        .map(|(inner, outer)| (inner.as_raw_fd(), outer.as_raw_fd()));
    let born = clone_child(command.cgroup, 0, |joined| {
        image.become_program(joined, command, processes.as_ref(), write.as_raw_fd(), ends)
    });
    let left = processes.map(Processes::leave).transpose();
    let mut child = born.map_err(SpawnError::Process)?;
    match left {
        Ok(keeper) => child.keeper = keeper,
        Err(source) => {
            // Whatever this process starts from here on would be in the command's namespace.
            kill(&child);
            return Err(SpawnError::Contain {
                what: OWN_PROCESSES,
                source,
            });
        }
    }
    Ok(Held {
        child: Some(child),
        program: program.to_owned(),
        told: read,
        gate: gate.map(|(_, outer)| outer),
    })
}

/// The process group of a process, or of this one; none if it has ended, or lies outside of our pid namespace, where a
/// group has no number that could be told. (rustix takes for granted that there is one.)
pub fn process_group(pid: Option<Pid>) -> Option<Pid> {
    // SAFETY: getpgid takes a plain number, 0 for the calling process.
    Pid::from_raw(unsafe { libc::getpgid(pid.map_or(0, Pid::as_raw_pid)) }.max(0))
}

/// Let no program that this process starts from now on inherit anything but its standard streams. What the caller had
/// open for the command's sake (a lock, a pipe that somebody waits at the other end of) must not live longer by a program of ours.
pub fn inherit_nothing() -> io::Result<()> {
    // SAFETY: plain numbers; no descriptor is closed here.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A process that does nothing, for a cgroup that must not be empty while it is being made. It ends with
/// the thread that made it; end it earlier by SIGKILL, and reap it.
pub fn placeholder() -> io::Result<Child> {
    let parent = std::process::id();
    clone_child(None, 0, |_| {
        // SAFETY: close_range takes plain numbers; this process never uses a descriptor again.
        unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32) };
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes a signal number only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: getppid has no arguments and cannot fail.
        if unsafe { libc::getppid() }.cast_unsigned() != parent {
            return;
        }
        loop {
            // SAFETY: pause has no arguments; what ends it ends this process, or was not meant for it.
            unsafe { libc::pause() };
        }
    })
}

/// A process that continues the calling one (SIGCONT, over and over) while `child` is not stopped, gone included.
/// For a caller that is about to stop with its child: whoever continues the child alone would leave
/// it stopped for good. It ends with the thread that made it; end it earlier by SIGKILL, and reap it.
pub fn waker(child: &Child) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let stat = CString::new(format!("/proc/{}/stat", child.pid))?;
    clone_child(None, 0, |_| {
        // SAFETY: close_range takes plain numbers; none of the caller's descriptors is used here.
        unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32) };
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes a signal number only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: getppid has no arguments and cannot fail.
        while unsafe { libc::getppid() } == parent.as_raw_pid() {
            let pause = libc::timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            // SAFETY: reads a local value; what is left of the time is not asked for.
            unsafe { libc::nanosleep(&pause, ptr::null_mut()) };
            if !is_stopped(&stat) {
                // SAFETY: plain numbers. The parent lives, or this process would not.
                unsafe { libc::kill(parent.as_raw_pid(), libc::SIGCONT) };
            }
        }
    })
}

/// Does this `/proc/PID/stat` tell of a stopped process? Neither allocates nor locks.
fn is_stopped(stat: &CString) -> bool {
    // SAFETY: a C string; open is async-signal-safe.
    let file = unsafe { libc::open(stat.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return false;
    }
    // The state follows the name, of at most 64 bytes, in parentheses.
    let mut text = [0u8; 256];
    // SAFETY: writes at most the array's length into it.
    let have = unsafe { libc::read(file, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: opened above, and closed once.
    unsafe { libc::close(file) };
    let text = &text[..usize::try_from(have).unwrap_or(0)];
    let state = text
        .iter()
        .rposition(|byte| *byte == b')')
        .and_then(|end| text.get(end + 2));
    matches!(state, Some(b'T' | b't'))
}

/// End a child that is not to become the program.
fn kill(child: &Child) {
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    reap(child);
}

/// Collect a child that is known to be ending.
fn reap(child: &Child) {
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
    {}
}

/// Fork, into `cgroup` if there is one and into new namespaces as `flags` say, and run `in_child` in the child, told whether it is in there already.
///
/// When `in_child` returns, the child ends. It must restrict itself to what is async-signal-safe: other threads of this process are gone
/// in the child, and may have held any lock.
pub(crate) fn clone_child(
    cgroup: Option<BorrowedFd<'_>>,
    flags: libc::c_int,
    in_child: impl Fn(bool),
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args: every field is a plain integer for which zero means "none".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((libc::CLONE_PIDFD | flags).cast_unsigned());
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is initialised and of the size told; without CLONE_VM the child has its own copy of
    // this stack, so that returning from the call twice is sound.
    let mut pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_ref(&args),
            size_of::<libc::clone_args>(),
        )
    };
    let mut joined = cgroup.is_some();
    if pid < 0
        && matches!(
            io::Error::last_os_error().raw_os_error(),
            Some(libc::ENOSYS | libc::EPERM)
        )
    {
        // Seccomp filters of older container engines answer so to clone3, whose arguments they cannot
        // see. The child then joins by itself, before it becomes the program.
        joined = false;
        let flags = libc::c_long::from(libc::CLONE_PIDFD | flags | libc::SIGCHLD);
        let no: *mut libc::c_void = ptr::null_mut();
        // SAFETY: as above; the third argument, on every architecture, is where the pidfd goes.
        pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                flags,
                no,
                ptr::from_mut(&mut pidfd),
                no,
                no,
            )
        };
    }
    match pid {
        0 => {
            in_child(joined);
            // SAFETY: _exit does not return and runs nothing of this address space.
            unsafe { libc::_exit(0) }
        }
        pid if pid < 0 => Err(io::Error::last_os_error()),
        pid => {
            // SAFETY: the call succeeded, so `pidfd` is a fresh descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child {
                pid: i32::try_from(pid).expect("process ids fit into 32 bits"),
                pidfd,
                keeper: None,
            })
        }
    }
}
