//! The child's side: from its birth to the program that it becomes.
//!
//! Everything is made before the fork. From there on nothing allocates or locks: the supervisor may have threads, and what one
//! of them held is held in the child for ever.

use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::io::Errno;

use super::Command;
use super::contain::Containment;
use super::hide::HiddenSockets;
use super::processes::Processes;

/// What the child tells over the pipe when it could not become the program: where it failed, and errno.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Stage {
    /// It is no failure: it waits at the gate.
    Gate = 0,
    Cgroup = 1,
    Exec = 2,
    Join = 3,
    Filter = 4,
    Namespace = 5,
    Mount = 6,
    Privilege = 7,
    Hide = 8,
}

/// The program's arguments in the form that exec takes, made before the fork.
pub(super) struct Image {
    /// Paths to try, in order.
    candidates: Vec<CString>,
    /// Owns what `argv` and `envp` point to.
    _strings: Vec<CString>,
    /// `[/bin/sh, (candidate), arguments…, null]`: the program's own argv starts at 1.
    argv: Vec<Cell<*const c_char>>,
    envp: Vec<*const c_char>,
}

impl Image {
    pub(super) fn prepare(command: &Command<'_>) -> io::Result<Self> {
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
    pub(super) fn become_program(
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
        if let Some(hidden) = command.hide {
            if command.contain.is_none() {
                contain(Stage::Hide, HiddenSockets::own_mounts());
            }
            contain(Stage::Hide, hidden.cover());
        }
        if command.no_new_privileges && !forgo_privileges() {
            give_up(tell, Stage::Privilege, errno());
        }
        if let Some(filter) = command.filter
            && let Err(error) = filter.install()
        {
            give_up(tell, Stage::Filter, error.raw_os_error().unwrap_or(0));
        }
        if let Some(containment) = command.contain {
            contain(Stage::Privilege, containment.drop_privileges());
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
pub(super) fn candidates(program: &OsStr, search: Option<&OsStr>) -> Vec<Vec<u8>> {
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

/// In the child: tell the parent why, and end.
fn give_up(tell: RawFd, stage: Stage, errno: i32) -> ! {
    let message = [stage as i32, errno];
    // SAFETY: writes 8 bytes of a local array; a pipe takes them whole or not at all.
    unsafe { libc::write(tell, message.as_ptr().cast(), size_of_val(&message)) };
    // SAFETY: _exit does not return and runs nothing of this address space.
    unsafe { libc::_exit(127) }
}

/// errno of the last call, without allocating.
pub(super) fn errno() -> i32 {
    // SAFETY: has no arguments and cannot fail.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: the location is this thread's own and always readable.
    unsafe { location.read() }
}
