//! The agent: guards for whoever may ask, without giving them root.
//!
//! One thread takes calls, and each guard has one of its own. What a caller says is data, what it hands over is held by a
//! descriptor and looked at; nothing is started, written or read with root's rights because a caller said so, but what a run
//! keeps of itself. Why so, and what follows from it: docs/decisions/0026-agent.md.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use blackstart_core::agent::Order;
use blackstart_kernel::spawn::Signals;
use blackstart_kernel::{Tracer, keep_memory_together};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, chown, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::process::{Gid, Signal, umask};

use crate::refusal::{Cause, Refusal};
use crate::{Notice, Request};
use caller::Caller;
use calls::{attend, say_refused};
use hearts::Hearts;
use office::{Call, Office, locked, make_ahead};
use reply::Judging;
use units::{Parting, Rules, Watch};
use wire::Link;

pub(crate) mod asking;
pub(crate) mod caller;
mod calls;
pub(crate) mod hearts;
mod office;
pub(crate) mod reply;
mod restart;
mod resumed;
mod take_up;
pub(crate) mod units;
pub(crate) mod wire;

/// Calls at once, of all and of one user.
const CALLS_MOST: usize = 1024;
const CALLS_OF_ONE: usize = 256;
/// Calls that wait to be taken.
const BACKLOG: i32 = 128;
/// How long a thread's stack is; what it does not use takes no memory.
const STACK: usize = 1 << 20;

/// Where the agent listens, and for whom.
#[derive(Debug, Clone)]
pub struct Post {
    /// Its socket.
    pub socket: PathBuf,
    /// Whoever is in it may ask, besides root.
    pub group: Option<u32>,
    /// Guards that are made ahead.
    pub spares: usize,
    /// Where state is kept.
    pub state_dir: PathBuf,
}

/// What the agent has to tell.
#[derive(Debug)]
pub enum Event {
    /// It takes calls from now on.
    Listening,
    /// A call was refused.
    Refused {
        /// Whose, as far as that is known.
        caller: Option<(u32, i32)>,
        /// Of which kind the reason is.
        why: Why,
        /// Why.
        text: String,
    },
    /// So many guards are loaded for the next calls.
    Spares(usize),
    /// A run has begun.
    Began {
        /// Its id.
        run: String,
        /// The user.
        uid: u32,
        /// Its process.
        pid: i32,
    },
    /// A run is over.
    Over {
        /// Its id.
        run: String,
        /// Where its report is.
        record: Option<PathBuf>,
        /// The report stays as it is.
        finished: bool,
    },
    /// A run that an earlier agent, or a supervisor of its own, has left is over: its report.
    Adopted(PathBuf),
    /// A run that an earlier agent has left is looked after.
    TakenUp {
        /// Its id.
        run: String,
    },
    /// A unit is guarded, by a rule.
    Attached {
        /// Its run.
        run: String,
        /// The unit.
        unit: String,
        /// The rule's pattern.
        rule: String,
        /// How many processes it has.
        processes: usize,
    },
    /// A unit stays guarded, and is left to the next agent.
    Left {
        /// Its run.
        run: String,
        /// The unit.
        unit: String,
    },
    /// A unit that a rule means could not be guarded.
    Unguarded {
        /// The unit.
        unit: String,
        /// Why.
        why: String,
    },
    /// Something happens in a unit that is guarded.
    Told {
        /// The unit.
        unit: String,
        /// What.
        notice: Notice,
    },
    /// Something of ours failed.
    Warning(String),
}

/// Of which kind the reason is why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Who calls cannot be told.
    Unknown,
    /// Whoever calls may not.
    NotPermitted,
    /// Too many calls are open.
    TooMany,
    /// What was asked for, or what came of it.
    Run(Cause),
}

/// What a caller wants, and who it is.
#[derive(Debug)]
pub struct Wanted {
    /// The order.
    pub order: Order,
    /// The user.
    pub uid: u32,
    /// The number of the rule that has guarded the unit from which it comes.
    pub rule: Option<usize>,
}

/// What an order means, by guardrails and policy: the run, and what to tell of that; or all that is wrong with it.
pub type Resolve = dyn Fn(Wanted) -> Result<(Request, Judging), Vec<String>> + Send + Sync;
/// Who is told.
pub type Tell = dyn Fn(Event) + Send + Sync;

/// Take calls until somebody asks for the end. Guards stay where they are: the next agent takes them up. What is guarded by one
/// of the `rules` is let go of, unless this agent is to be replaced by another: where systemd restarts its unit, and after SIGUSR1.
pub fn serve(
    post: Post,
    resolve: Box<Resolve>,
    rules: Option<Rules>,
    tell: Box<Tell>,
) -> Result<(), Refusal> {
    let failed = |what: &str, why: &dyn std::fmt::Display, remedy: &str| Refusal {
        cause: Cause::System,
        what: what.to_owned(),
        why: why.to_string(),
        remedy: remedy.to_owned(),
    };
    if !rustix::process::geteuid().is_root() {
        let why = "it makes cgroups and loads programs for others";
        return Err(failed("the agent needs root", &why, "start it as root"));
    }
    // Before any thread is made: threads inherit the block.
    let signals = Signals::block_with(&[Signal::USR1.as_raw()])
        .map_err(|error| failed("signals cannot be taken over", &error, ""))?;
    let patterns = rules.as_ref().map(|rules| rules.patterns.clone());
    let watch = rules.map(Watch::begin).transpose()?;
    let shown = post.socket.display().to_string();
    let (listener, _lock) = open(&post).map_err(|error| {
        failed(
            &format!("the agent cannot listen at {shown}"),
            &error,
            "name another place with --socket",
        )
    })?;
    keep_memory_together();
    let tracer = Tracer::load().map(Arc::new).map_err(|error| {
        let why = crate::orphan::described(&error);
        tell(Event::Warning(format!(
            "each guard follows processes by itself, which the host pays for: {why}"
        )));
    });
    let hearts = Hearts::start().inspect_err(|error| tracing::warn!(%error, "hearts"));
    let office = Arc::new(Office::open(
        post,
        resolve,
        tell,
        patterns.unwrap_or_default(),
        tracer.ok(),
        hearts.ok(),
    ));
    take_up::of_callers(&office);
    let units = match watch.map(|watch| watch.start(&office)) {
        Some((units, first)) => {
            take_up::rest_after(&office, first);
            Some(units)
        }
        None => {
            take_up::rest(&office);
            None
        }
    };
    for _ in 0..office.post.spares {
        make_ahead(&office);
    }
    (office.tell)(Event::Listening);
    loop {
        let mut fds = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        while let Some(received) = signals.next() {
            let parting = match Signal::from_named_raw(received.signal) {
                Some(Signal::USR1) => Parting::Leave,
                // Nobody is asked where nothing depends on it.
                Some(Signal::TERM) if units.is_some() && restart::is_on() => Parting::Leave,
                Some(Signal::INT | Signal::QUIT | Signal::TERM) => Parting::LetGo,
                _ => continue,
            };
            if let Some(units) = units {
                units.close(parting);
            }
            office.close();
            return Ok(());
        }
        match accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(socket) => receive(&office, socket),
            Err(error) => tracing::debug!(%error, "a call"),
        }
    }
}

/// The socket, with nobody but root and the group let near it; and the lock that keeps other agents away.
fn open(post: &Post) -> io::Result<(OwnedFd, File)> {
    let dir = post.socket.parent().unwrap_or(Path::new("/"));
    if !dir.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)?;
    }
    let about = fs::metadata(dir)?;
    if about.uid() != 0 || about.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!(
            "others than root may write to {}",
            dir.display()
        )));
    }
    // Runs may have kept their state there, in directories that stay closed.
    if dir == Path::new(crate::state::SPARE) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    }
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(post.socket.with_extension("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another agent listens there"))?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match fs::remove_file(&post.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Closed to all until its group is set.
    let before = umask(Mode::from_raw_mode(0o777));
    let bound = bind(&socket, &SocketAddrUnix::new(&post.socket)?);
    umask(before);
    bound?;
    chown(&post.socket, None, post.group.map(Gid::from_raw))?;
    fs::set_permissions(&post.socket, fs::Permissions::from_mode(0o660))?;
    listen(&socket, BACKLOG)?;
    Ok((socket, lock))
}

/// A call: who is it, may they, and is there room?
fn receive(office: &Arc<Office>, socket: OwnedFd) {
    let refuse = |link: &Link, caller: Option<(u32, i32)>, kind: Why, why: &str, remedy: &str| {
        say_refused(link, "the agent does not answer", why, remedy);
        (office.tell)(Event::Refused {
            caller,
            why: kind,
            text: why.to_owned(),
        });
    };
    let link = Link::of(socket);
    let caller = match Caller::of(link.fd()) {
        Ok(caller) => caller,
        Err(error) => {
            return refuse(
                &link,
                None,
                Why::Unknown,
                &format!("who calls cannot be told: {error}"),
                "",
            );
        }
    };
    let who = Some((caller.uid, caller.pid));
    if !caller.is_permitted(office.post.group) {
        let why = "its caller is neither root nor in the permitted group";
        return refuse(
            &link,
            who,
            Why::NotPermitted,
            why,
            "ask an administrator for the agent's group",
        );
    }
    {
        let mut calls = locked(&office.calls);
        let all: usize = calls.values().sum();
        let of_one = calls.entry(caller.uid).or_default();
        if all >= CALLS_MOST || *of_one >= CALLS_OF_ONE {
            if *of_one == 0 {
                calls.remove(&caller.uid);
            }
            drop(calls);
            return refuse(
                &link,
                who,
                Why::TooMany,
                "too many calls are open",
                "try again when some are over",
            );
        }
        *of_one += 1;
    }
    let call = Call {
        link,
        caller,
        office: Arc::clone(office),
    };
    office.stir.now();
    // Popped by itself, so that nobody waits for a lock.
    let (ahead, left) = {
        let mut ahead = locked(&office.ahead);
        (ahead.pop(), ahead.len())
    };
    if ahead.is_some() {
        (office.tell)(Event::Spares(left));
    }
    let rest = match ahead {
        Some(thread) => match thread.send(call) {
            Ok(()) => return,
            Err(unsent) => unsent.0,
        },
        None => call,
    };
    let started = thread::Builder::new()
        .name("guard".to_owned())
        .stack_size(STACK)
        .spawn(move || attend(&rest, None));
    if let Err(error) = started {
        (office.tell)(Event::Warning(format!("a call has no thread: {error}")));
    }
}
