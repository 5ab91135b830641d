//! Signals as values read from a descriptor, so that one loop sees them in order with everything else.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Was SIGPIPE ignored when this process began? Rust's runtime ignores it before `main`, so that it cannot be asked then.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_pipe() {
    if let Ok(found) = disposition(libc::SIGPIPE) {
        PIPE_IGNORED.store(found == libc::SIG_IGN, Ordering::Relaxed);
    }
}

// SAFETY: the loader calls what stands in this section, before `main`; the function takes nothing, needs nothing of
// the runtime that is not there yet, and cannot unwind.
#[unsafe(link_section = ".init_array")]
#[used]
static NOTE_PIPE: extern "C" fn() = note_pipe;

/// What a supervisor takes notice of. SIGCONT is not in it: it acts before anyone can read it, and
/// whoever stopped itself notices that it goes on. SIGWINCH and others with a harmless default are left
/// alone, and those that mean a defect (SIGSEGV, …) must keep their effect.
const WATCHED: [i32; 8] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    // Blocked, not only watched: so the supervisor may give the terminal away from the background.
    libc::SIGTTOU,
    libc::SIGCHLD,
];

/// The signal mask and the dispositions that a child is to be started with.
#[derive(Clone, Copy)]
pub struct SignalState {
    mask: libc::sigset_t,
    /// SIGCHLD was ignored. The supervisor cannot wait for its child so; the child shall find it so.
    children_ignored: bool,
    /// SIGPIPE was ignored when this process began.
    pipe_ignored: bool,
}

impl std::fmt::Debug for SignalState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignalState")
            .field("children_ignored", &self.children_ignored)
            .field("pipe_ignored", &self.pipe_ignored)
            .finish_non_exhaustive()
    }
}

impl SignalState {
    /// As it is now, in this thread.
    pub fn current() -> io::Result<Self> {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: a null set changes nothing and the old mask is written to `mask`.
        checked(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr()) })?;
        // SAFETY: the call succeeded, so the mask is written.
        let mask = unsafe { mask.assume_init() };
        Ok(Self {
            mask,
            children_ignored: disposition(libc::SIGCHLD)? == libc::SIG_IGN,
            pipe_ignored: PIPE_IGNORED.load(Ordering::Relaxed),
        })
    }

    /// Between fork and exec: only async-signal-safe calls, and no error that anyone could act upon.
    pub(super) fn restore_in_child(&self) {
        for (signal, ignored) in [
            (libc::SIGCHLD, self.children_ignored),
            (libc::SIGPIPE, self.pipe_ignored),
        ] {
            let found = if ignored {
                libc::SIG_IGN
            } else {
                libc::SIG_DFL
            };
            // SAFETY: signal() with a standard disposition is async-signal-safe.
            unsafe { libc::signal(signal, found) };
        }
        // SAFETY: `mask` is a valid set; sigprocmask is async-signal-safe.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.mask, ptr::null_mut()) };
    }
}

/// A signal that was sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The process that sent it by kill(2) or the like; none if the kernel did (the terminal, a child).
    pub sender: Option<u32>,
}

/// The watched signals, blocked in this thread and readable from a descriptor. Dropping it gives the
/// thread its former mask back. Threads made later inherit the block, threads made before do not: block
/// first.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    found: SignalState,
}

impl Signals {
    /// Block the watched signals.
    pub fn block() -> io::Result<Self> {
        Self::block_with(&[])
    }

    /// Block these as well.
    pub fn block_with(others: &[i32]) -> io::Result<Self> {
        let found = SignalState::current()?;
        let all: Vec<i32> = WATCHED.iter().chain(others).copied().collect();
        let set = set_of(&all);
        // SAFETY: -1 asks for a new descriptor; the set is initialised.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the set is initialised; the old mask is already known.
        checked(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) })?;
        // SAFETY: sets the standard disposition; while SIGCHLD is ignored, children vanish without a status.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        Ok(Self { fd, found })
    }

    /// Readable when a signal waits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// As it was before: what the child is to be started with.
    pub fn found(&self) -> SignalState {
        self.found
    }

    /// The next signal, if one waits.
    pub fn next(&self) -> Option<Received> {
        type Info = libc::signalfd_siginfo;
        let mut bytes = [0u8; size_of::<Info>()];
        let have =
            rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut bytes)).unwrap_or(0);
        if have < bytes.len() {
            return None;
        }
        let word = |at: usize| {
            i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        // Codes of kill, tgkill, sigqueue and their kin are not positive; the kernel's own are.
        let by_process = word(offset_of!(Info, ssi_code)) <= 0;
        let sender = word(offset_of!(Info, ssi_pid)).cast_unsigned();
        Some(Received {
            signal: word(offset_of!(Info, ssi_signo)),
            sender: by_process.then_some(sender),
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What came in the meantime was meant for the run, which is over.
        while self.next().is_some() {}
        // SAFETY: a mask that the kernel gave us.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.found.mask, ptr::null_mut()) };
        if self.found.children_ignored {
            // SAFETY: sets a standard disposition.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        }
    }
}

/// Stop this whole process, as `signal` would have stopped it, until someone continues it.
///
/// The parent's shell reports with which signal a job stopped, hence not always SIGSTOP.
pub fn stop_self(signal: i32) -> io::Result<()> {
    let stops = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal);
    let signal = if stops && disposition(signal)? == libc::SIG_DFL {
        signal
    } else {
        libc::SIGSTOP
    };
    let set = set_of(&[signal]);
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid for the call; SIGSTOP in the set is ignored.
    checked(unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, before.as_mut_ptr()) })?;
    // SAFETY: getpid has no arguments and cannot fail.
    let own = unsafe { libc::getpid() };
    // SAFETY: takes plain numbers. It returns once somebody continued us.
    let sent = unsafe { libc::kill(own, signal) };
    let failure = io::Error::last_os_error();
    // SAFETY: the mask was written by the successful call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    if sent == 0 { Ok(()) } else { Err(failure) }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set is initialised and the numbers are of real signals.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}

fn disposition(signal: i32) -> io::Result<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null action changes nothing and the present one is written to `action`.
    if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the action is written.
    Ok(unsafe { action.assume_init() }.sa_sigaction)
}

/// The pthread calls return the error instead of setting errno.
fn checked(code: i32) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};

    #[test]
    fn a_signal_is_read_with_its_sender_and_the_mask_comes_back() {
        // In a process of its own: a signal to a process whose other threads do not block it ends it.
        let before = SignalState::current().unwrap();
        let signals = Signals::block().unwrap();
        // SIGCHLD has a harmless default, whichever thread of the test it reaches; sent to this very
        // thread it would need tgkill, so it is only required not to be lost when it comes here.
        kill_process(
            Pid::from_raw(std::process::id().cast_signed()).unwrap(),
            Signal::CHILD,
        )
        .unwrap();
        if let Some(got) = signals.next() {
            assert_eq!(
                got,
                Received {
                    signal: libc::SIGCHLD,
                    sender: Some(std::process::id())
                }
            );
        }
        drop(signals);
        let after = SignalState::current().unwrap();
        // SAFETY: each mask was written by the kernel.
        let holds = |mask: &libc::sigset_t, signal: i32| unsafe { libc::sigismember(mask, signal) };
        for signal in WATCHED {
            assert_eq!(holds(&before.mask, signal), holds(&after.mask, signal));
        }
    }
}
