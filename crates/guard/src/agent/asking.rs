//! The caller's side: its command is its own child, with its rights, its terminal and its signals; what guards it is the
//! agent's.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::agent::{self, End, Order, Word};
use blackstart_core::policy::{Effect, Policy, Reaction};
use blackstart_core::record::Verdict;
use blackstart_core::report::exit_code::{GATED, TIME_LIMIT};
use blackstart_core::report::{Gap, Mode, Report, RunLimits, Told, rule_text};
use blackstart_kernel::spawn::{Child, Command, Held, Signals, SocketFilter, spawn_held};

use super::reply::{Judging, Reply};
use super::wire::{Link, Packet, reader, sealed};
use crate::cgroup::{Found, RunCgroup};
use crate::control::Judged;
use crate::plan::{Need, Terms};
use crate::refusal::{Cause, Refusal};
use crate::run::{interrupted, not_started, run_file};
use crate::story::wall_ns;
use crate::supervise::{Beside, Ending, Place, Supervision, Supervisor};
use crate::terminal::Terminal;
use crate::watch::Watch;
use crate::{AtEnd, Ended, Notice, Request, inherited, locked, scripts};

/// How long an agent may take that is being replaced by another.
const UPGRADE: Duration = Duration::from_secs(2);
/// The same for a report, after the command has ended.
const REPORT: Duration = Duration::from_secs(40);
/// How long the agent may take with what it does before the command starts.
const START: Duration = Duration::from_secs(60);
/// How often the next one is looked for, to hear what happens from it.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two tries to reach it.
const STEP: Duration = Duration::from_millis(20);
/// How often a run that waits for its leftovers looks at them.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// Of processes that are only told of.
const TOLD_MOST: usize = 64;

/// An agent that took the call.
#[derive(Debug)]
pub struct Agent {
    link: Link,
    socket: PathBuf,
}

impl Agent {
    /// Call it.
    pub fn call(socket: &Path) -> io::Result<Self> {
        let deadline = Instant::now() + UPGRADE;
        loop {
            match Link::connect(socket) {
                Ok(link) => {
                    return Ok(Self {
                        link,
                        socket: socket.to_owned(),
                    });
                }
                // Nobody listens: there was somebody, and may be again.
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionRefused
                        && Instant::now() < deadline =>
                {
                    sleep(STEP);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Have everything made that guards a command.
    pub fn ask(self, order: &Order) -> Result<Asked, Refusal> {
        let octets =
            agent::order(order).ok_or_else(|| too_much("the policy, or the command line"))?;
        let file = sealed(|out| out.write_all(&octets)).map_err(|error| unheard(&error))?;
        self.link
            .set_patience(Some(START), Some(START))
            .map_err(|error| unheard(&error))?;
        let word = agent::packet(&Word::Run {}).ok_or_else(|| too_much("a word"))?;
        // It may have refused already, and hung up: then that is what is read.
        let sent = self.link.send(&word, &[file.as_fd()]);
        let mut notices = Vec::new();
        match wait_for(&self.link, &mut |notice| notices.push(notice)) {
            Ok((Reply::Ready { run, confine }, Some(packet))) => {
                let judging = content(packet).map_err(|error| unheard(&error))?;
                Ok(Asked {
                    agent: self,
                    run,
                    confine,
                    judging,
                    notices,
                })
            }
            Ok(_) => Err(unheard(&io::Error::other(
                "it said something else than was asked",
            ))),
            Err(refusal) => Err(match sent {
                Err(error) if refusal.cause == Cause::Agent => unheard(&error),
                _ => refusal,
            }),
        }
    }
}

/// A guard that waits for its command.
#[derive(Debug)]
pub struct Asked {
    agent: Agent,
    run: String,
    confine: bool,
    judging: Judging,
    notices: Vec<Notice>,
}

/// The agent while a command runs.
pub(crate) struct Ear {
    link: Link,
    gone: bool,
    /// Where, and about what, another one is asked that has taken the run up.
    socket: PathBuf,
    run: String,
    next: Next,
}

/// An agent that has taken up what another one has left.
enum Next {
    /// There may be one by then.
    Sought(Instant),
    /// It tells what happens. For the report it is asked anew.
    Tells(Link),
    /// None does that.
    Silent,
}

/// What came of waiting for a word.
enum Heard {
    /// There may be more.
    Word,
    Nothing,
    Gone,
    Refusal,
}

/// Hear what was said, if anything was.
fn heard(link: &Link, notice: &mut dyn FnMut(Notice)) -> Heard {
    match link.try_receive() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        Ok(Some(packet)) => {
            match Reply::read(&packet.octets) {
                Ok(Reply::Notice(it)) => notice(it),
                Ok(Reply::Refused { .. }) => return Heard::Refusal,
                // Nothing else was asked for yet.
                Ok(other) => tracing::debug!(?other, "unasked"),
                Err(why) => notice(Notice::Warning(why)),
            }
            Heard::Word
        }
        Ok(None) | Err(_) => Heard::Gone,
    }
}

impl Ear {
    fn new(link: Link, socket: &Path, run: &str) -> Self {
        Self {
            link,
            gone: false,
            socket: socket.to_owned(),
            run: run.to_owned(),
            next: Next::Sought(Instant::now()),
        }
    }

    /// Readable when it says something; none while nobody does.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match (self.gone, &self.next) {
            (false, _) => Some(self.link.fd()),
            (true, Next::Tells(link)) => Some(link.fd()),
            (true, Next::Sought(_) | Next::Silent) => None,
        }
    }

    /// What it has to tell.
    pub(crate) fn hear(&mut self, notice: &mut dyn FnMut(Notice)) {
        while !self.gone {
            match heard(&self.link, notice) {
                Heard::Word => {}
                Heard::Nothing => return,
                Heard::Gone | Heard::Refusal => self.gone = true,
            }
        }
        if let Next::Sought(at) = self.next
            && Instant::now() >= at
        {
            self.next = match self.listen() {
                Ok(link) => Next::Tells(link),
                Err(error) => {
                    tracing::debug!(%error, "the next agent");
                    Next::Sought(Instant::now() + AGAIN)
                }
            };
        }
        while let Next::Tells(link) = &self.next {
            match heard(link, notice) {
                Heard::Word => {}
                Heard::Nothing => return,
                Heard::Gone => self.next = Next::Sought(Instant::now() + AGAIN),
                Heard::Refusal => self.next = Next::Silent,
            }
        }
    }

    /// Ask the next agent to tell what happens. It may not be there yet.
    fn listen(&self) -> io::Result<Link> {
        let link = Link::connect(&self.socket)?;
        let word = Word::Listen {
            run: self.run.clone(),
        };
        let word = agent::packet(&word).ok_or(io::ErrorKind::InvalidData)?;
        link.try_send(&word)?;
        Ok(link)
    }
}

/// A command that runs, guarded by the agent.
pub struct Started {
    ear: Ear,
    socket: PathBuf,
    run: String,
    judging: Judging,
    signals: Signals,
    terminal: Terminal,
    cgroup: Option<Box<RunCgroup>>,
    limits: RunLimits,
    child: Child,
}

impl Asked {
    /// What the run will be judged by.
    pub fn judging(&self) -> &Judging {
        &self.judging
    }

    /// Start the command. After an error of [`Cause::Agent`] nothing ran, and another agent may be asked.
    pub fn start(
        self,
        request: &Request,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<Started, Refusal> {
        let Self {
            agent,
            run,
            confine,
            judging,
            notices,
        } = self;
        let signals = Signals::block().map_err(|error| unheard(&error))?;
        let terminal = Terminal::open();
        notices.into_iter().for_each(&mut *notice);
        interrupted(&signals)?;
        let held = held(request, confine, &signals)?;
        let word = agent::packet(&Word::Child {}).ok_or_else(|| too_much("a word"))?;
        agent
            .link
            .send(&word, &[held.child().pidfd.as_fd()])
            .map_err(|error| unheard(&error))?;
        let (place, limits) = match wait_for(&agent.link, notice)? {
            (Reply::Go { cgroup, limits }, _) => (cgroup, limits),
            _ => {
                return Err(unheard(&io::Error::other(
                    "it said something else than was asked",
                )));
            }
        };
        let cgroup = place.and_then(|place| match RunCgroup::find(&place) {
            Ok(Found::Here(cgroup)) => Some(cgroup),
            other => {
                tracing::debug!(?other, "the run's cgroup is not seen from here");
                None
            }
        });
        let child = match held.go() {
            Ok(child) => child,
            Err(error) => {
                let refusal = not_started(&error);
                let end = End {
                    exit_code: refusal.exit_code().into(),
                    ..End::default()
                };
                if let Some(word) = agent::packet(&Word::Ended(end)) {
                    let _ = agent.link.send(&word, &[]);
                }
                return Err(refusal);
            }
        };
        Ok(Started {
            ear: Ear::new(agent.link, &agent.socket, &run),
            socket: agent.socket,
            run,
            judging,
            signals,
            terminal,
            cgroup,
            limits,
            child,
        })
    }
}

impl Started {
    /// Wait for its end, and get the report.
    pub fn see_through(
        self,
        request: &Request,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<Ended, Refusal> {
        let Self {
            mut ear,
            socket,
            run,
            judging,
            signals,
            terminal,
            cgroup,
            limits,
            child,
        } = self;
        let inherited = inherited::sockets();
        let policy = judging.policy.as_ref();
        let at_end = request
            .leftover
            .unwrap_or_else(|| match policy.map(|it| it.default) {
                Some(Effect::Deny) => AtEnd::Kill,
                _ => AtEnd::Release,
            });
        let time = policy.and_then(|policy| policy.limits.time);
        let mut watch = Watch::new(limits, time, at_end, child.pid.cast_unsigned());
        let ending = supervised(
            request,
            &child,
            &signals,
            &terminal,
            cgroup.as_deref(),
            &mut watch,
            &mut ear,
            at_end,
            notice,
        )?;
        let overtime = watch.overtime.is_some();
        let end = end_of(ending, &watch);
        let told = match after(&mut ear, &end, notice) {
            Some(told) => told,
            None => {
                notice(Notice::Warning(
                    "the agent ended while the command ran: the run stayed guarded; the report is asked of the next one".to_owned(),
                ));
                again(&socket, &run, &end, notice).map_err(|refusal| Refusal {
                    // It has run: nobody is to think that it can be asked for again.
                    cause: Cause::System,
                    what: format!(
                        "the command ended with {}, and its report cannot be had",
                        end.exit_code
                    ),
                    remedy: format!(
                        "once an agent is there, `blackstart runs show {run}`, as root, has it"
                    ),
                    ..refusal
                })?
            }
        };
        let (exit_code, mut report) = told;
        // A sweep came before the next agent, and did not know how the command ended.
        let exit_code = exit_code.unwrap_or_else(|| {
            let gated = end.exit_code == 0
                && judging
                    .policy
                    .as_ref()
                    .is_some_and(|policy| gates(policy, &report));
            let code = if gated { GATED } else { end.exit_code };
            report.run.exit_code = Some(code);
            code
        });
        // What the command was given besides, only its parent knows.
        let kind = Need::InheritedSockets.kind();
        report
            .coverage
            .gaps
            .extend(inherited.into_iter().map(|detail| Gap {
                kind: kind.to_owned(),
                detail,
                count: 0,
            }));
        report.add(scripts::read(&report), Vec::new());
        let lock = request.lock.as_ref().map(|order| {
            let (lock, found) = locked::compare(&report, order);
            report.add(Vec::new(), found);
            lock
        });
        let signal = match ending {
            Ending::Signal(signal) if !overtime => Some(signal),
            _ => None,
        };
        Ok(Ended {
            report: Told::Report(Box::new(report)),
            exit_code,
            signal,
            lock,
            // Kept where the caller has nothing to look for.
            record: None,
            finished: false,
            reloaded: None,
        })
    }
}

/// The command's process, before it is the command.
fn held(request: &Request, confine: bool, signals: &Signals) -> Result<Held, Refusal> {
    let filter = confine.then(SocketFilter::compile).transpose();
    let filter = filter.map_err(|error| Refusal {
        cause: Cause::System,
        what: "packet and vsock sockets cannot be refused".to_owned(),
        why: error.to_string(),
        remedy:
            "accept it with --no-contain and --accept-gap unseen_families, if the agent lets you"
                .to_owned(),
    })?;
    let held = spawn_held(&Command {
        argv: &request.command,
        env: &request.env,
        cgroup: None,
        joins: &[],
        filter: filter.as_ref(),
        contain: None,
        hide: None,
        no_new_privileges: confine,
        signals: signals.found(),
    });
    held.map_err(|error| not_started(&error))
}

#[expect(
    clippy::too_many_arguments,
    reason = "what a supervisor looks after, once"
)]
fn supervised(
    request: &Request,
    child: &Child,
    signals: &Signals,
    terminal: &Terminal,
    cgroup: Option<&RunCgroup>,
    watch: &mut Watch,
    ear: &mut Ear,
    at_end: AtEnd,
    notice: &mut dyn FnMut(Notice),
) -> Result<Ending, Refusal> {
    let mut judged = Judged {
        policy: None::<Cow<'_, _>>,
        first_rule: 0,
        tables: None,
        search: Vec::new(),
        may_enforce: false,
        broken_glass: false,
        ends_leases: false,
        enforcing: false,
    };
    let mut file = run_file(request, Mode::Observe, Terms::new(false, &[])?);
    let mut beside = Beside::default();
    let mut supervisor = Supervisor {
        child,
        signals,
        terminal,
        cgroup,
        watch,
        on: Supervision {
            agent: Some(ear),
            ..Supervision::new(
                Place::Made(cgroup),
                &mut judged,
                &mut file,
                &mut beside,
                notice,
            )
        },
    };
    let ending = supervisor.until_exit();
    terminal.take_back();
    let Some(cgroup) = cgroup else {
        return Ok(ending);
    };
    supervisor
        .watch
        .last_look(&cgroup.survivors().unwrap_or_default());
    while at_end == AtEnd::Wait && cgroup.populated().unwrap_or(false) {
        if supervisor.time_is_over() || !supervisor.idle(WAIT_STEP) {
            break;
        }
    }
    Ok(ending)
}

fn end_of(ending: Ending, watch: &Watch) -> End {
    let mut overtime = watch.overtime.clone();
    if let Some(overtime) = &mut overtime {
        overtime.ended.truncate(TOLD_MOST);
        overtime.spared.truncate(TOLD_MOST);
        // A moment that the agent has no reason to doubt, and no use for beyond now.
        overtime.at_ns = overtime.at_ns.min(wall_ns(SystemTime::now()));
    }
    let mut daemons = watch.daemons();
    daemons.truncate(TOLD_MOST);
    End {
        exit_code: match overtime {
            Some(_) => TIME_LIMIT,
            None => ending.exit_code(),
        },
        overtime,
        daemons,
        highest_pids: watch.highest_pids,
    }
}

/// Was something refused by a rule whose author wants the run to fail for it?
fn gates(policy: &Policy, report: &Report) -> bool {
    let failing: Vec<String> = (1..)
        .zip(&policy.rules)
        .filter(|(_, rule)| rule.reaction == Reaction::Fail)
        .map(|(id, _)| rule_text(Some(policy), id))
        .collect();
    let denied =
        |verdict: Verdict, rule: &String| verdict == Verdict::Deny && failing.contains(rule);
    report.flows.iter().any(|it| denied(it.verdict, &it.rule))
        || report.names.iter().any(|it| denied(it.verdict, &it.rule))
        || report
            .delegates
            .iter()
            .any(|it| denied(it.verdict, &it.rule))
}

/// A report as it is handed over, and the exit code.
type Given = (Option<i32>, Report);

/// Say that the command has ended, and hear the report; none if the agent is gone.
fn after(ear: &mut Ear, end: &End, notice: &mut dyn FnMut(Notice)) -> Option<Given> {
    ear.hear(notice);
    if ear.gone {
        return None;
    }
    ear.link.set_patience(Some(REPORT), Some(REPORT)).ok()?;
    ear.link.send(&ended_packet(end, Word::Ended)?, &[]).ok()?;
    given(&ear.link, notice).ok()
}

/// The same of another agent than the one that guarded it.
fn again(
    socket: &Path,
    run: &str,
    end: &End,
    notice: &mut dyn FnMut(Notice),
) -> Result<Given, Refusal> {
    let deadline = Instant::now() + REPORT;
    loop {
        let word = |ended| Word::Report {
            run: run.to_owned(),
            ended,
        };
        let asked = Agent::call(socket).and_then(|agent| {
            agent.link.set_patience(Some(REPORT), Some(REPORT))?;
            let packet = ended_packet(end, word).ok_or(io::ErrorKind::InvalidData)?;
            agent.link.send(&packet, &[])?;
            Ok(agent)
        });
        let outcome = match asked {
            Ok(agent) => given(&agent.link, notice),
            Err(error) => Err(unheard(&error)),
        };
        match outcome {
            // It has ended, too, or is not there yet: only what it said counts.
            Err(refusal) if refusal.cause == Cause::Agent && Instant::now() < deadline => {
                sleep(STEP);
            }
            other => return other,
        }
    }
}

/// With as much of what is only told as fits.
fn ended_packet(end: &End, word: impl Fn(End) -> Word) -> Option<Vec<u8>> {
    let short = || End {
        exit_code: end.exit_code,
        highest_pids: end.highest_pids,
        ..End::default()
    };
    agent::packet(&word(end.clone())).or_else(|| agent::packet(&word(short())))
}

fn given(link: &Link, notice: &mut dyn FnMut(Notice)) -> Result<Given, Refusal> {
    match wait_for(link, notice)? {
        (Reply::Report { exit_code }, Some(packet)) => {
            let report = content(packet).map_err(|error| unheard(&error))?;
            Ok((exit_code, report))
        }
        _ => Err(unheard(&io::Error::other(
            "it said something else than was asked",
        ))),
    }
}

/// The next thing that is said and is no notice; what comes along with it.
fn wait_for(
    link: &Link,
    notice: &mut dyn FnMut(Notice),
) -> Result<(Reply, Option<Packet>), Refusal> {
    loop {
        let packet = link.receive().map_err(|error| unheard(&error))?;
        let Some(packet) = packet else {
            return Err(unheard(&io::ErrorKind::UnexpectedEof.into()));
        };
        match Reply::read(&packet.octets).map_err(|why| unheard(&io::Error::other(why)))? {
            Reply::Notice(it) => notice(it),
            Reply::Refused { what, why, remedy } => {
                return Err(Refusal {
                    cause: Cause::Request,
                    what,
                    why,
                    remedy,
                });
            }
            other => return Ok((other, Some(packet))),
        }
    }
}

/// The value in the file that came along.
fn content<T: serde::de::DeserializeOwned>(mut packet: Packet) -> io::Result<T> {
    let file = packet.descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
    Ok(serde_json::from_reader(reader(file)?)?)
}

fn unheard(error: &io::Error) -> Refusal {
    Refusal {
        cause: Cause::Agent,
        what: "the agent cannot be heard".to_owned(),
        why: error.to_string(),
        remedy: "see that it runs".to_owned(),
    }
}

fn too_much(what: &str) -> Refusal {
    Refusal {
        cause: Cause::Request,
        what: "the agent cannot be asked".to_owned(),
        why: format!("{what} is too long for it"),
        remedy: String::new(),
    }
}
