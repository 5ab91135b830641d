//! Starting the child: inside its cgroup before its first instruction, and otherwise just as a shell
//! would have started it.
//!
//! `std::process` cannot place a child into a cgroup at birth, and a process that joins later has an
//! unguarded moment. Hence clone3 by hand. Everything that the child touches between clone and exec is
//! prepared before: the supervisor may have threads, so that the child may neither allocate nor lock.

use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use processes::Processes;

mod contain;
mod filter;
mod processes;
mod signals;

pub use contain::Containment;
pub use filter::SocketFilter;
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
            Self::Join(_) | Self::Filter(_) | Self::Contain { .. } | Self::Process(_) => None,
        }
    }
}

/// What the child tells over the pipe when it could not become the program: where it failed, and errno.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Stage {
    /// It is no failure: it waits at the gate.
    Gate = 0,
    Cgroup = 1,
    Exec = 2,
    Join = 3,
    Filter = 4,
    Namespace = 5,
    Mount = 6,
    Privilege = 7,
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

/// In the child: wait for an octet. None comes if whoever holds the other end has ended, and so does the child.
fn wait_at_gate(inner: RawFd, outer: RawFd, tell: RawFd) {
    // SAFETY: the child's own copy of a descriptor that it does not use.
    unsafe { libc::close(outer) };
    let here = [Stage::Gate as i32, 0];
    // SAFETY: writes 8 bytes of a local array; a pipe takes them whole or not at all.
    unsafe { libc::write(tell, here.as_ptr().cast(), size_of_val(&here)) };
    let mut octet = 0u8;
    loop {
        // SAFETY: writes at most one octet into a local one.
        let have = unsafe { libc::read(inner, ptr::from_mut(&mut octet).cast(), 1) };
        if have == 1 {
            return;
        }
        if have == 0 || errno() != libc::EINTR {
            // SAFETY: _exit does not return and runs nothing of this address space.
            unsafe { libc::_exit(127) }
        }
    }
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

/// The program's arguments in the form that exec takes, made before the fork.
struct Image {
    /// Paths to try, in order.
    candidates: Vec<CString>,
    /// Owns what `argv` and `envp` point to.
    _strings: Vec<CString>,
    /// `[/bin/sh, (candidate), arguments…, null]`: the program's own argv starts at 1.
    argv: Vec<Cell<*const c_char>>,
    envp: Vec<*const c_char>,
}

impl Image {
    fn prepare(command: &Command<'_>) -> io::Result<Self> {
        let program = command
            .argv
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str);
        let search = command
            .env
            .iter()
            .find(|(key, _)| key == "PATH")
            .map(|(_, value)| value.as_os_str());
        let candidates = candidates(program, search);
        let candidates: Vec<CString> = candidates
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()?;

        let mut strings = Vec::with_capacity(command.argv.len() + command.env.len() + 1);
        strings.push(c"/bin/sh".to_owned());
        for argument in command.argv {
            strings.push(CString::new(argument.as_bytes())?);
        }
        let arguments = strings.len();
        for (key, value) in command.env {
            strings.push(CString::new(
                [key.as_bytes(), b"=", value.as_bytes()].concat(),
            )?);
        }
        let pointers = |range: &[CString]| -> Vec<*const c_char> {
            range
                .iter()
                .map(|s| s.as_ptr())
                .chain([ptr::null()])
                .collect()
        };
        let argv: Vec<_> = pointers(&strings[..arguments])
            .into_iter()
            .map(Cell::new)
            .collect();
        let envp = pointers(&strings[arguments..]);
        Ok(Self {
            candidates,
            argv,
            envp,
            _strings: strings,
        })
    }

    /// In the child: never returns, never allocates.
    fn become_program(
        &self,
        joined: bool,
        command: &Command<'_>,
        processes: Option<&Processes>,
        tell: RawFd,
        gate: Option<(RawFd, RawFd)>,
    ) -> ! {
        let contain = |stage: Stage, step: Result<(), Errno>| {
            if let Err(error) = step {
                give_up(tell, stage, error.raw_os_error());
            }
        };
        if let (false, Some(cgroup)) = (joined, command.cgroup)
            && !join_in_child(cgroup)
        {
            give_up(tell, Stage::Cgroup, errno());
        }
        for procs in command.joins {
            // SAFETY: writes one byte from a constant into an open file; "0" means the writer.
            if unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } != 1 {
                give_up(tell, Stage::Join, errno());
            }
        }
        // From the widest privilege to the narrowest: mounts need what the filter needs, too, and that goes last.
        if let (Some(containment), Some(processes)) = (command.contain, processes) {
            contain(Stage::Namespace, processes.report());
            contain(Stage::Namespace, Containment::own_namespaces());
            contain(Stage::Mount, containment.limit_mounts());
        }
        if command.no_new_privileges && !forgo_privileges() {
            give_up(tell, Stage::Privilege, errno());
        }
        if let Some(filter) = command.filter
            && let Err(error) = filter.install()
        {
            give_up(tell, Stage::Filter, error.raw_os_error().unwrap_or(0));
        }
        if command.contain.is_some() {
            contain(Stage::Privilege, Containment::drop_capabilities());
        }
        // Whoever looks at it there sees what it has given up.
        if let Some((inner, outer)) = gate {
            wait_at_gate(inner, outer, tell);
        }
        command.signals.restore_in_child();

        let mut denied = false;
        let mut last = libc::ENOENT;
        for candidate in &self.candidates {
            let path = candidate.as_ptr();
            // SAFETY: argv (from 1) and envp are null-terminated arrays of C strings that `self` owns.
            unsafe { libc::execve(path, self.argv[1..].as_ptr().cast(), self.envp.as_ptr()) };
            last = errno();
            if last == libc::ENOEXEC {
                self.run_by_shell(path);
                last = errno();
            }
            match last {
                libc::EACCES => denied = true,
                // As execvp does: such a directory of PATH is as good as absent.
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => give_up(tell, Stage::Exec, last),
            }
        }
        if last == libc::ENOTDIR && self.candidates.len() > 1 {
            last = libc::ENOENT;
        }
        give_up(tell, Stage::Exec, if denied { libc::EACCES } else { last })
    }

    /// A script without `#!`: what execvp and the shells do with it.
    fn run_by_shell(&self, script: *const c_char) {
        // In place, since nothing may be allocated here: this copy of the array is the child's own.
        // The slot exists, since an argv without a program has no candidate to come here with.
        let own_name = self.argv[1].replace(script);
        // SAFETY: slot 0 is "/bin/sh"; both arrays are null-terminated arrays of C strings, and a `Cell`
        // has the layout of what it holds.
        unsafe {
            libc::execve(
                self.argv[0].get(),
                self.argv.as_ptr().cast(),
                self.envp.as_ptr(),
            )
        };
        self.argv[1].set(own_name);
    }
}

/// The paths that execvp would try for `program`.
fn candidates(program: &OsStr, search: Option<&OsStr>) -> Vec<Vec<u8>> {
    let program = program.as_bytes();
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let search = search.unwrap_or(OsStr::new("/bin:/usr/bin")).as_bytes();
    search
        .split(|b| *b == b':')
        .map(|dir| {
            let dir = if dir.is_empty() { b"." } else { dir };
            [dir, b"/", program].concat()
        })
        .collect()
}

/// In the child: no program that it executes gives it privileges. Its failure is in errno.
fn forgo_privileges() -> bool {
    // SAFETY: prctl(PR_SET_NO_NEW_PRIVS) takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 }
}

/// In the child: join a cgroup that it was not born into. Its failure is in errno.
pub(crate) fn join_in_child(cgroup: BorrowedFd<'_>) -> bool {
    // SAFETY: a valid descriptor and a C string; openat is async-signal-safe.
    let procs = unsafe {
        libc::openat(
            cgroup.as_raw_fd(),
            c"cgroup.procs".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        )
    };
    // SAFETY: writes one byte from a constant; "0" means the writer.
    procs >= 0 && unsafe { libc::write(procs, c"0".as_ptr().cast(), 1) } == 1
}

/// In the child: tell the parent why, and end.
fn give_up(tell: RawFd, stage: Stage, errno: i32) -> ! {
    let message = [stage as i32, errno];
    // SAFETY: writes 8 bytes of a local array; a pipe takes them whole or not at all.
    unsafe { libc::write(tell, message.as_ptr().cast(), size_of_val(&message)) };
    // SAFETY: _exit does not return and runs nothing of this address space.
    unsafe { libc::_exit(127) }
}

/// errno of the last call, without allocating.
fn errno() -> i32 {
    // SAFETY: has no arguments and cannot fail.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: the location is this thread's own and always readable.
    unsafe { location.read() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(
        argv: &[&str],
        env: &[(&str, &str)],
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Child, SpawnError> {
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let env: Vec<_> = env
            .iter()
            .map(|(k, v)| (OsString::from(k), OsString::from(v)))
            .collect();
        spawn(&Command {
            argv: &argv,
            env: &env,
            cgroup,
            joins: &[],
            filter: None,
            contain: None,
            no_new_privileges: false,
            signals: SignalState::current().unwrap(),
        })
    }

    fn exit(child: &Child) -> i32 {
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap();
        status
            .exit_status()
            .or(status.terminating_signal().map(|s| s + 128))
            .unwrap()
    }

    fn cgroup2() -> Option<std::path::PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|l| l.contains(" - cgroup2 "))?;
        line.split(' ').nth(4).map(Into::into)
    }

    #[test]
    fn the_child_is_born_inside_its_cgroup() {
        let Some(mount) = cgroup2().filter(|_| rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs root and a cgroup2 mount");
            return;
        };
        let name = format!("blackstart-spawn-test-{}", std::process::id());
        let dir = mount.join(&name);
        std::fs::create_dir(&dir).unwrap();
        let fd = std::fs::File::open(&dir).unwrap();
        let out = std::env::temp_dir().join(&name);
        let script = format!("cat /proc/self/cgroup >{}", out.display());
        let child = start(
            &["sh", "-c", &script],
            &[("PATH", "/usr/bin:/bin")],
            Some(fd.as_fd()),
        );
        let code = child.map(|c| exit(&c));
        let seen = std::fs::read_to_string(&out).unwrap_or_default();
        std::fs::remove_dir(&dir).unwrap();
        let _ = std::fs::remove_file(&out);
        assert_eq!(code.unwrap(), 0);
        assert!(
            seen.lines()
                .any(|l| l.starts_with("0::") && l.ends_with(&name)),
            "{seen}"
        );
    }

    #[test]
    fn the_child_joins_before_it_becomes_the_program_or_there_is_none() {
        let path = std::env::temp_dir().join(format!("blackstart-joins-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let argv = ["cat".into(), path.clone().into_os_string()];
        let env = [(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))];
        let into = |file: &std::fs::File| {
            let joins = [file.as_fd()];
            spawn(&Command {
                argv: &argv,
                env: &env,
                cgroup: None,
                joins: &joins,
                filter: None,
                contain: None,
                no_new_privileges: false,
                signals: SignalState::current().unwrap(),
            })
        };
        let writable = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let joined = into(&writable).map(|child| exit(&child));
        let written = std::fs::read_to_string(&path).unwrap();
        // Not for writing: the kernel refuses, and so it is not started.
        let refused = into(&std::fs::File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!((joined.unwrap(), written.as_str()), (0, "0"));
        assert!(matches!(refused, Err(SpawnError::Join(_))), "{refused:?}");
    }

    #[test]
    fn a_held_child_waits_for_its_word_and_ends_with_who_would_give_it() {
        let path = std::env::temp_dir().join(format!("blackstart-held-{}", std::process::id()));
        let argv = ["touch".into(), path.clone().into_os_string()];
        let env = [(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))];
        let held = || {
            spawn_held(&Command {
                argv: &argv,
                env: &env,
                cgroup: None,
                joins: &[],
                filter: None,
                contain: None,
                no_new_privileges: true,
                signals: SignalState::current().unwrap(),
            })
            .unwrap()
        };
        let dropped = held();
        let pid = dropped.child().pid;
        drop(dropped);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(!path.exists());
        let child = held().go().unwrap();
        assert_eq!(exit(&child), 0);
        std::fs::remove_file(&path).unwrap();
        // What it gives up is given up by then.
        let held = held();
        let status = std::fs::read_to_string(format!("/proc/{}/status", held.child().pid));
        assert!(status.unwrap().contains("NoNewPrivs:\t1\n"));
    }

    #[test]
    fn a_missing_command_is_127_and_a_directory_126() {
        let missing = start(
            &["no-such-command-here"],
            &[("PATH", "/bin:/nonexistent:/etc/hostname")],
            None,
        )
        .unwrap_err();
        assert_eq!(missing.exit_code(), Some(127), "{missing:?}");
        let directory = start(&["/tmp"], &[], None).unwrap_err();
        assert_eq!(directory.exit_code(), Some(126), "{directory:?}");
        assert_eq!(start(&[""], &[], None).unwrap_err().exit_code(), Some(127));
        assert_eq!(start(&[], &[], None).unwrap_err().exit_code(), Some(127));
    }

    #[test]
    fn a_file_without_permission_does_not_hide_a_later_one() {
        let dir = std::env::temp_dir().join(format!("blackstart-path-{}", std::process::id()));
        // Written by another process: what is open for writing, here or in a child that another test starts, nobody
        // can execute.
        let script =
            "mkdir -p a b; echo 'exit 7' | tee a/tool >b/tool; chmod 644 a/tool; chmod 755 b/tool";
        std::fs::create_dir_all(&dir).unwrap();
        let made = std::process::Command::new("sh")
            .args(["-ec", script])
            .current_dir(&dir)
            .status();
        assert!(made.unwrap().success());
        let both = format!("{0}/a:{0}/b", dir.display());
        let only_a = format!("{}/a", dir.display());
        // Without `#!`, so this also shows the hand-over to /bin/sh.
        let code = start(&["tool"], &[("PATH", &both)], None).map(|c| exit(&c));
        let denied = start(&["tool"], &[("PATH", &only_a)], None).unwrap_err();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(code.unwrap(), 7);
        assert_eq!(denied.exit_code(), Some(126));
    }

    #[test]
    fn path_is_searched_as_execvp_does() {
        let texts = |program: &str, path: Option<&str>| -> Vec<String> {
            let found = candidates(OsStr::new(program), path.map(OsStr::new));
            found
                .into_iter()
                .map(|c| String::from_utf8(c).unwrap())
                .collect()
        };
        assert_eq!(texts("a/b", Some("/x")), ["a/b"]);
        assert_eq!(texts("b", Some("/x::/y")), ["/x/b", "./b", "/y/b"]);
        assert_eq!(texts("b", None), ["/bin/b", "/usr/bin/b"]);
    }

    #[test]
    fn the_child_has_default_sigpipe_and_the_given_mask() {
        let child = start(
            &[
                "sh",
                "-c",
                "grep -q '^SigBlk:[[:space:]]*0*$' /proc/self/status || exit 3; kill -PIPE $$",
            ],
            &[("PATH", "/bin:/usr/bin")],
            None,
        );
        assert_eq!(exit(&child.unwrap()), 128 + libc::SIGPIPE);
    }

    #[test]
    fn a_stopped_process_is_told_from_one_that_runs_or_is_gone() {
        let child = placeholder().unwrap();
        let stat = CString::new(format!("/proc/{}/stat", child.pid)).unwrap();
        assert!(!is_stopped(&stat));
        rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::STOP).unwrap();
        let options = WaitIdOptions::STOPPED;
        waitid(WaitId::PidFd(child.pidfd.as_fd()), options).unwrap();
        assert!(is_stopped(&stat));
        rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
        exit(&child);
        assert!(!is_stopped(&stat));
    }

    #[test]
    fn a_placeholder_lives_until_killed() {
        let child = placeholder().unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        assert!(
            waitid(WaitId::PidFd(child.pidfd.as_fd()), options)
                .unwrap()
                .is_none()
        );
        rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
        assert_eq!(exit(&child), 128 + libc::SIGKILL);
    }
}
