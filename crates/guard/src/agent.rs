//! The agent: guards for whoever may ask, without giving them root.
//!
//! One thread takes calls, and each guard has one of its own. What a caller says is data, what it hands over is held by a
//! descriptor and looked at; nothing is started, written or read with root's rights because a caller said so, but what a run
//! keeps of itself. Why so, and what follows from it: docs/decisions/0026-agent.md.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use blackstart_core::agent::{MAX_ORDER, Order, Word, read_order, read_packet};
use blackstart_core::policy::UnitPattern;
use blackstart_kernel::spawn::Signals;
use blackstart_kernel::{Tracer, keep_memory_together};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, chown, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::process::{Gid, Signal, umask};

use crate::refusal::{Cause, Refusal};
use crate::run::hosted::{Shared, host};
use crate::run::spare::Spare;
use crate::{Notice, Request};
use caller::Caller;
use hearts::Hearts;
use reply::{Judging, Reply};
use take_up::Taken;
use units::{Parting, Rules, Watch};
use wire::{Link, read_sealed};

pub(crate) mod asking;
pub(crate) mod caller;
pub(crate) mod hearts;
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
/// How long a caller may take with a word, and with hearing one.
const PATIENCE: Duration = Duration::from_secs(5);
/// A caller does not wait for what is made ahead for the next one.
const AHEAD: Duration = Duration::from_millis(20);
/// An order beyond this is read while no other such is.
const LARGE: usize = 1 << 20;
/// How long what was made ahead may take to be taken down, at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
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

/// What all threads share.
struct Office {
    post: Post,
    resolve: Box<Resolve>,
    tell: Box<Tell>,
    /// How many calls each user has open.
    calls: Mutex<HashMap<u32, usize>>,
    /// Guards that were made ahead, each with the thread that holds it.
    ahead: Mutex<Vec<SyncSender<Call>>>,
    /// How many are being made, wait, or are being taken down again.
    spare: Mutex<usize>,
    /// That has changed.
    fewer: Condvar,
    /// No more of them are made.
    closing: AtomicBool,
    /// Held while a large order is read.
    large: Mutex<()>,
    /// Runs of an earlier agent.
    taken: Taken,
    stir: Stir,
    /// Which units are guarded by rules.
    patterns: Vec<UnitPattern>,
    /// What all guards hear of the host's processes by; none where each has its own.
    tracer: Option<Arc<Tracer>>,
    /// What says for them that they live; none where each does.
    hearts: Option<Arc<Hearts>>,
}

/// A call, until it is over.
struct Call {
    link: Link,
    caller: Caller,
    office: Arc<Office>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = locked(&self.office.calls);
        if let Some(count) = calls.get_mut(&self.caller.uid) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.caller.uid);
            }
        }
    }
}

impl Office {
    /// Take down what waits for nobody any more. Runs go on.
    fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        // Whoever waits for a call hears that none will come.
        locked(&self.ahead).clear();
        let spare = locked(&self.spare);
        let left = self
            .fewer
            .wait_timeout_while(spare, LAST_PATIENCE, |left| *left > 0);
        if left.is_ok_and(|(left, _)| *left > 0) {
            tracing::info!("a sweep takes down what was made ahead");
        }
    }
}

/// One guard that was made ahead, or is being made; until it is somebody's, or is no more.
struct Ahead(Arc<Office>);

impl Ahead {
    fn begin(office: &Arc<Office>) -> Option<Self> {
        if office.closing.load(Ordering::Relaxed) {
            return None;
        }
        *locked(&office.spare) += 1;
        Some(Self(Arc::clone(office)))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *locked(&self.0.spare) -= 1;
        self.0.fewer.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    let office = Arc::new(Office {
        post,
        resolve,
        tell,
        calls: Mutex::default(),
        ahead: Mutex::default(),
        spare: Mutex::default(),
        fewer: Condvar::new(),
        closing: AtomicBool::new(false),
        large: Mutex::default(),
        taken: Taken::default(),
        stir: Stir::start(),
        patterns: patterns.unwrap_or_default(),
        tracer: tracer.ok(),
        hearts: hearts.ok(),
    });
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

/// Make a guard for a call to come, in the thread that will look after it: what the kernel's tables are reached by does not
/// change threads.
fn make_ahead(office: &Arc<Office>) {
    let Some(ahead) = Ahead::begin(office) else {
        return;
    };
    let own = Arc::clone(office);
    let started = thread::Builder::new()
        .name("guard".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let spare = match Spare::make(&own.post.state_dir, own.tracer.as_ref()) {
                Ok(spare) => spare,
                Err(refusal) => return (own.tell)(Event::Warning(refusal.to_string())),
            };
            let (thread, calls) = sync_channel(1);
            {
                let mut waiting = locked(&own.ahead);
                if own.closing.load(Ordering::Relaxed) {
                    drop(thread);
                } else {
                    waiting.push(thread);
                    (own.tell)(Event::Spares(waiting.len()));
                }
            }
            match calls.recv() {
                Ok(call) => {
                    drop((ahead, own));
                    attend(&call, Some(spare));
                }
                Err(_) => spare.discard(),
            }
        });
    if let Err(error) = started {
        (office.tell)(Event::Warning(format!("no guard is made ahead: {error}")));
    }
}

/// Hear what a caller wants, and do it.
fn attend(call: &Call, spare: Option<Spare>) {
    let had_one = spare.is_some();
    let mut spare = spare;
    if let Err(refusal) = hear(call, &mut spare) {
        say_refused(&call.link, &refusal.what, &refusal.why, &refusal.remedy);
        (call.office.tell)(Event::Refused {
            caller: Some((call.caller.uid, call.caller.pid)),
            why: Why::Run(refusal.cause),
            text: refusal.to_string(),
        });
    }
    if let Some(unused) = spare {
        unused.discard();
        if had_one {
            make_ahead(&call.office);
        }
    }
}

fn hear(call: &Call, spare: &mut Option<Spare>) -> Result<(), Refusal> {
    let (link, office) = (&call.link, &call.office);
    let io = |error: io::Error| not_understood(error.to_string());
    link.set_patience(Some(PATIENCE), Some(PATIENCE))
        .map_err(io)?;
    let Some(mut packet) = link.receive().map_err(io)? else {
        // It only looked whether somebody is here.
        return Ok(());
    };
    let word = read_packet(&packet.octets).map_err(not_understood)?;
    match (word, packet.descriptors.pop()) {
        (Word::Run {}, Some(file)) => guard(call, file, spare),
        (Word::Run {}, None) => Err(not_understood(
            "no file with an order came along".to_owned(),
        )),
        (Word::Report { run, ended }, None) => {
            take_up::report(office, link, &call.caller, &run, ended)
        }
        (Word::Listen { run }, None) => take_up::listen(office, link, &call.caller, &run),
        _ => Err(not_understood("a run was to be asked for first".to_owned())),
    }
}

fn not_understood(why: String) -> Refusal {
    Refusal {
        cause: Cause::Request,
        what: "the agent does not understand its caller".to_owned(),
        why,
        remedy: String::new(),
    }
}

#[inline(never)]
fn order_in(file: OwnedFd, office: &Office) -> Result<Order, String> {
    let length = rustix::fs::fstat(&file)
        .map_err(|error| error.to_string())?
        .st_size;
    let large = usize::try_from(length).unwrap_or(usize::MAX) > LARGE;
    let _alone = large.then(|| locked(&office.large));
    let octets = read_sealed(file, MAX_ORDER).map_err(|error| error.to_string())?;
    read_order(&octets)
}

/// What the order in a file means. On the heap: what lies on the stack from here on does so as long as the run goes on.
#[inline(never)]
fn meant(call: &Call, file: OwnedFd) -> Result<(Box<Request>, Box<Judging>), Refusal> {
    let (caller, office) = (&call.caller, &call.office);
    let wanted = Wanted {
        order: order_in(file, office).map_err(not_understood)?,
        uid: caller.uid,
        rule: units::rule_over(&office.patterns, caller.pid),
    };
    match (office.resolve)(wanted) {
        Ok((request, judging)) => Ok((Box::new(request), Box::new(judging))),
        Err(wrong) => Err(Refusal {
            cause: Cause::Request,
            what: "the agent refuses this run".to_owned(),
            why: wrong.join("\n"),
            remedy: String::new(),
        }),
    }
}

/// Guard a command for its caller, up to its end.
fn guard(call: &Call, file: OwnedFd, spare: &mut Option<Spare>) -> Result<(), Refusal> {
    let (caller, office) = (&call.caller, &call.office);
    let (request, judging) = meant(call, file)?;
    let refill = spare.is_some();
    let mut began = |run: &str, pid: i32| {
        (office.tell)(Event::Began {
            run: run.to_owned(),
            uid: caller.uid,
            pid,
        });
        if refill {
            let office = Arc::clone(office);
            let later = thread::Builder::new()
                .name("ahead".to_owned())
                .spawn(move || {
                    thread::sleep(AHEAD);
                    make_ahead(&office);
                });
            if let Err(error) = later {
                tracing::warn!(%error, "no guard is made ahead");
            }
        }
    };
    let over = host(
        &request,
        caller,
        &call.link,
        spare.take(),
        Shared {
            tracer: office.tracer.as_ref(),
            hearts: office.hearts.as_deref(),
        },
        judging,
        &mut began,
    );
    let over = over.inspect_err(|_| {
        if refill {
            make_ahead(office);
        }
    })?;
    (office.tell)(Event::Over {
        run: over.id,
        record: over.record,
        finished: over.finished,
    });
    Ok(())
}

fn say_refused(link: &Link, what: &str, why: &str, remedy: &str) {
    let mut why = why.to_owned();
    let packet = loop {
        let said = Reply::Refused {
            what: what.to_owned(),
            why: why.clone(),
            remedy: remedy.to_owned(),
        };
        match said.packet() {
            None if !why.is_empty() => {
                let mut half = why.len() / 2;
                while !why.is_char_boundary(half) {
                    half -= 1;
                }
                why.truncate(half);
            }
            other => break other,
        }
    };
    if let Some(packet) = packet {
        let _ = link.try_send(&packet);
    }
}

/// Moving a process between cgroups waits until every program and fork that began before has ended, some 10 ms, and for a few
/// more milliseconds then nobody waits. So something is moved to where it is already, as soon as somebody calls: when
/// the command's process comes, that time is over.
struct Stir(SyncSender<()>);

impl Stir {
    fn start() -> Self {
        let (wanted, received) = sync_channel(1);
        let started = thread::Builder::new()
            .name("stir".to_owned())
            .spawn(move || {
                let own = crate::cgroup::own_procs();
                let pid = std::process::id().to_string();
                while received.recv().is_ok() {
                    if let Ok(own) = &own
                        && let Err(error) = fs::write(own, &pid)
                    {
                        tracing::debug!(%error, "stir");
                    }
                }
            });
        if let Err(error) = started {
            tracing::debug!(%error, "stir");
        }
        Self(wanted)
    }

    fn now(&self) {
        // Asked for already, if there is no room.
        let _ = self.0.try_send(());
    }
}
