//! A pid namespace for a contained command, and the process that keeps it.
//!
//! Outside of its namespace a process cannot be named, so it can be neither signalled nor looked into. The first process
//! of a pid namespace is special: the default action of a signal does not touch it, it inherits every orphan, and with
//! its end all others are killed. A command must notice nothing of that. So the first process is ours, and does no more
//! than to be there until the last of the others has ended; and the command is not its child but the supervisor's, born
//! into the namespace. Its exit code, its stops and its place in the caller's session come to the supervisor as
//! without a namespace, and nobody need pass them on.
//!
//! The keeper stays in the caller's cgroup: it is none of the run's processes. It outlives a supervisor that is killed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open,
    set_dumpable_behavior, setsid, waitid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, ThreadNameSpaceType, move_into_thread_name_spaces,
    set_capabilities, set_name,
};

use super::{Child, clone_child};

/// How long the end of a run waits for the keeper's. With processes that are left to live it stays.
const SOON: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// The first process of a pid namespace.
#[derive(Debug)]
pub struct Keeper(OwnedFd);

impl Drop for Keeper {
    fn drop(&mut self) {
        // If it has ended it would stay in the process table until we do, too; and if nobody is left in there, it
        // is about to.
        let mut until = [PollFd::new(&self.0, PollFlags::IN)];
        let _ = poll(&mut until, Some(&SOON));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.0.as_fd()), options);
    }
}

/// A namespace without processes but its keeper.
#[derive(Debug)]
pub(super) struct Processes {
    keeper: Child,
    /// What is said to the keeper, by us and then by the command.
    line: OwnedFd,
    /// This process, whose namespace is the one to come back to.
    own: OwnedFd,
}

impl Processes {
    /// Make it. Children of the calling thread are born into it, until [`Self::leave`].
    pub(super) fn enter() -> io::Result<Self> {
        let (line, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        let keeper = clone_child(None, libc::CLONE_NEWPID, |_| {
            let _ = keep(theirs.as_fd());
        })?;
        drop(theirs);
        // Before it shuts itself off from everybody.
        move_into_thread_name_spaces(keeper.pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
        let entered = Self { keeper, line, own };
        match entered.hear_that_it_is_ready() {
            Ok(()) => Ok(entered),
            Err(error) => {
                entered.leave()?;
                Err(error)
            }
        }
    }

    fn hear_that_it_is_ready(&self) -> io::Result<()> {
        send(&self.line, &[0], SendFlags::NOSIGNAL)?;
        let mut ready = [0; 1];
        match rustix::io::retry_on_intr(|| recv(&self.line, &mut ready, RecvFlags::empty()))? {
            (_, 1) => Ok(()),
            _ => Err(io::Error::other(
                "the first process of the pid namespace ended",
            )),
        }
    }

    /// In the command, before it becomes the program: name itself to the keeper.
    pub(super) fn report(&self) -> Result<(), Errno> {
        let number = getpid().as_raw_pid().to_ne_bytes();
        send(&self.line, &number, SendFlags::NOSIGNAL).map(drop)
    }

    /// Children are born where this process is again. The keeper, which ends with the last process in there.
    pub(super) fn leave(self) -> io::Result<Keeper> {
        move_into_thread_name_spaces(self.own.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
        Ok(Keeper(self.keeper.pidfd))
    }
}

/// What the first process of the namespace does; it ends when this returns. Only async-signal-safe calls.
fn keep(line: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut told = [0; 4];
    // First: while this process holds the other end, too, nobody's death would be heard.
    close_all_but(line.as_raw_fd())?;
    if recv(line, &mut told[..1], RecvFlags::empty())?.1 == 0 {
        return Ok(());
    }
    // No terminal, no directory, no name by which it is taken for the supervisor.
    setsid()?;
    rustix::process::chdir(c"/")?;
    set_name(c"blackstart-keep")?;
    // Orphans that end here are forgotten at once.
    // SAFETY: sets a standard disposition; signal is async-signal-safe.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    // It has the host's mounts: nobody inside is to look through its eyes, or to make it do anything.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )?;
    send(line, &[0], SendFlags::NOSIGNAL)?;
    let (_, length) = recv(line, &mut told, RecvFlags::empty())?;
    let Some(command) = Pid::from_raw(i32::from_ne_bytes(told)).filter(|_| length == told.len())
    else {
        return Ok(());
    };
    // Its end is none of a child's, and cannot be waited for. If it cannot be held, it is gone already.
    if let Ok(command) = pidfd_open(command, PidfdFlags::empty()) {
        let mut until = [PollFd::new(&command, PollFlags::IN)];
        while let Err(Errno::INTR) = poll(&mut until, None) {}
    }
    // What is left of its descendants are ours by now.
    loop {
        // SAFETY: nothing is asked for but to wait; wait4 is async-signal-safe.
        let ended = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if ended < 0 && super::image::errno() == libc::ECHILD {
            return Ok(());
        }
    }
}

fn close_all_but(kept: RawFd) -> Result<(), Errno> {
    let kept = kept.cast_unsigned();
    for (first, last) in [(0, kept.checked_sub(1)), (kept + 1, Some(u32::MAX))] {
        let Some(last) = last else { continue };
        // SAFETY: close_range takes plain numbers; none of these descriptors is used in this process again.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
        if closed != 0 {
            return Err(Errno::from_raw_os_error(super::image::errno()));
        }
    }
    Ok(())
}
