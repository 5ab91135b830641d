//! Attaching to what was there before: another way to begin, and to end, what a run is.
//!
//! The cgroup is somebody else's. Programs are attached to it and taken off again, and nothing else happens to it: no
//! process of ours goes in, none of its own is moved, limited, signalled or waited for. Why so, and what follows from it:
//! docs/decisions/0022-attach.md.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::decide::{Attempt, Lease, decide};
use blackstart_core::name::Name;
use blackstart_core::record::{SubjectId, Verdict};
use blackstart_core::report::{Attached, Connection, Guarded, LimitFacts, Until, Usage, rule_text};
use blackstart_core::tables::{Protocol, RuleId, Tables};
use blackstart_kernel::spawn::{Signals, stop_self};
use blackstart_kernel::{Error, FoundSocket, Known};
use rustix::process::Signal;

use super::{Setup, system, terms_of};
use crate::cgroup::{Meant, Target};
use crate::connections::{Open, Sockets};
use crate::control::Judged;
use crate::orphan::described;
use crate::plan::Need;
use crate::refusal::{Cause, Refusal};
use crate::resolv::{Resolving, Views};
use crate::state::{AttachedTo, RunDir, StateDir};
use crate::story::{End, wall_ns};
use crate::supervise::{Beside, CHECKPOINT, HEARTBEAT, Place, Supervision, Told};
use crate::{Ended, Notice, Request, found, process};

/// How often resolv.conf and the addresses of the host are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Files that have not answered for so long are on a server that is down.
const READ_MOST: Duration = Duration::from_secs(5);

/// Connections told one by one.
const CONNECTIONS_MOST: usize = 4096;

/// Sockets from outside told one by one.
const FOREIGN_MOST: usize = 32;

/// What is to be guarded, and for how long.
#[derive(Debug, Clone)]
pub struct Attaching {
    /// The cgroup.
    pub to: Meant,
    /// Until then; where none, until somebody asks for its end, or the cgroup is gone.
    pub time: Option<Duration>,
    /// End connections that are refused and older than the guard.
    pub cut: bool,
}

/// Guard a cgroup that was there before, and tell `notice` what happens meanwhile. Of `request` what is about a command
/// does not count.
pub fn attach(
    request: &Request,
    order: &Attaching,
    notice: &mut dyn FnMut(Notice),
) -> Result<Ended, Refusal> {
    let (mode, terms) = terms_of(request)?;
    let target = Target::find(&order.to)?;
    // Before any thread is made: threads inherit the block.
    let signals =
        Signals::block().map_err(|error| system("signals cannot be taken over", &error))?;
    for text in guarded_already(&request.state_dir, &target) {
        notice(Notice::Warning(text));
    }
    let mut setup = Setup::new(request, mode, terms);
    setup.file.attached = Some(AttachedTo {
        told: Attached {
            by: target.by,
            target: target.typed.clone(),
            cgroup: target.path(),
            until: None,
            connections: Vec::new(),
        },
        id: target.id(),
        links: Vec::new(),
    });
    setup.target = Some(target);
    setup.cut = order.cut;
    match setup
        .prepare(notice)
        .and_then(|()| setup.is_attached(notice))
    {
        Ok(()) => Ok(setup.watch_over(&signals, order.time, notice)),
        Err(refusal) => {
            setup.undo();
            Err(refusal)
        }
    }
}

/// Who guards this cgroup as well.
fn guarded_already(state: &Path, target: &Target) -> Vec<String> {
    let mut told = Vec::new();
    if target.is_in_run() {
        told.push(format!(
            "the cgroup {} lies in a run of Blackstart's: what either refuses is refused",
            target.path()
        ));
    }
    let unfinished = StateDir::places(state).filter_map(|state| state.unfinished().ok());
    let others = unfinished.flatten();
    let others = others.filter_map(|path| RunDir::peek(&path).ok());
    let same = others.filter(|run| run.attached.as_ref().is_some_and(|to| to.id == target.id()));
    told.extend(same.map(|run| {
        format!(
            "{} attached to this cgroup before: while both last, what either refuses is refused",
            run.id
        )
    }));
    told
}

impl Setup<'_> {
    /// What the processes of the cgroup see: no guard knows their lookups without it.
    pub(super) fn seen_from(
        target: &Target,
        views: &mut Option<Views>,
    ) -> Result<Resolving, Refusal> {
        let views = Views::new().map(|new| views.insert(new));
        let views = views.map_err(|error| system("no thread can be made", &error))?;
        let pids = target.pids().unwrap_or_default();
        views.within(READ_MOST, pids).ok_or_else(|| Refusal {
            cause: Cause::System,
            what: format!(
                "the resolv.conf of the processes in {} cannot be read",
                target.path()
            ),
            why: format!("it has not answered for {} s", READ_MOST.as_secs()),
            remedy: "see what /etc and /proc/PID/root of its processes lie on".to_owned(),
        })
    }

    /// The programs have shown in a cgroup of our own that they judge: on to the one that is meant. Its processes get
    /// their subjects before anything that they do is judged.
    pub(super) fn move_to_target(&mut self, tables: &Tables) -> Result<(), Refusal> {
        let (Some(session), Some(cgroup), Some(target)) =
            (&mut self.session, self.cgroup.take(), &self.target)
        else {
            return Ok(());
        };
        let probed = session.self_probe(cgroup.fd());
        let moved = session.move_to(target.fd()).and_then(|()| {
            let pids = target.pids().unwrap_or_default();
            let subjects = session.found(tables, &found::processes(&pids))?;
            let datagrams: Vec<FoundSocket> = Sockets::of(&pids, &target.ids())
                .own
                .iter()
                .filter(|socket| socket.is_datagrams())
                .filter_map(|socket| {
                    Some(FoundSocket {
                        cookie: socket.cookie,
                        tgid: socket.pid?,
                    })
                })
                .collect();
            session.found_sockets(&datagrams, &subjects)?;
            session.guard(target.fd())?;
            Ok::<_, Error>(subjects)
        });
        match cgroup.remove() {
            Ok(()) => self.file.cgroup = None,
            // A sweep finds it.
            Err(error) => tracing::warn!(%error, "the cgroup of the self-probe stays"),
        }
        if let Err(error) = probed {
            self.terms.lack(Need::SelfProbe, described(&error))?;
            self.file.guarded = Guarded::Partly;
        }
        self.found = moved.map_err(|error| Refusal {
            cause: Cause::System,
            what: format!("nothing can be attached to the cgroup {}", target.path()),
            why: described(&error),
            remedy: "see that it still runs".to_owned(),
        })?;
        if let Some(to) = &mut self.file.attached {
            to.links = session.links();
        }
        // From the next step on it judges: whoever finds what is left of it finds what it was.
        self.file.started_ns = wall_ns(SystemTime::now());
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        Ok(())
    }

    /// What was open before: told, and what is refused of it ended, where that was asked for.
    pub(super) fn meet_connections(&mut self, tables: &Tables, resolving: &Resolving) {
        let (Some(session), Some(target)) = (&self.session, &self.target) else {
            return;
        };
        let pids = target.pids().unwrap_or_default();
        let sockets = Sockets::of(&pids, &target.ids());
        let older: Vec<&Open> = sockets
            .own
            .iter()
            .filter(|socket| socket.is_connection() && !session.is_judged(socket.cookie))
            .collect();
        let enforcing = self.terms.enforcing();
        let judged = older.iter().map(|socket| {
            let subject = socket.pid.and_then(|pid| self.found.get(&pid));
            let selectors = subject.map_or(0, |&subject| session.holding(tables, subject));
            (!socket.incoming).then(|| judge(tables, resolving, socket, selectors, enforcing))
        });
        let judged: Vec<Option<(Verdict, RuleId)>> = judged.collect();
        let is_doomed = |said: &Option<(Verdict, RuleId)>| {
            self.cut && said.is_some_and(|(verdict, _)| verdict == Verdict::Deny)
        };
        let doomed = older
            .iter()
            .zip(&judged)
            .filter(|(_, said)| is_doomed(said));
        let doomed: Vec<&Open> = doomed.map(|(socket, _)| *socket).collect();
        let failed = sockets.end(&doomed);
        for (socket, why) in &failed {
            let detail = format!(
                "the connection to {} could not be ended: {why}",
                socket.peer
            );
            self.terms.note(Need::InheritedSockets, detail, 0);
        }
        let mut connections: Vec<Connection> = older
            .iter()
            .zip(&judged)
            .map(|(socket, said)| Connection {
                protocol: if socket.is_datagrams() { "udp" } else { "tcp" }.to_owned(),
                local: socket.local,
                peer: socket.peer,
                pid: socket.pid.filter(|_| process::numbered_as_recorded()),
                exe: socket.pid.and_then(process::exe),
                incoming: socket.incoming,
                verdict: said.map(|(verdict, _)| verdict),
                rule: said.map(|(_, rule)| rule_text(self.policy, rule)),
                cut: is_doomed(said) && !failed.iter().any(|(one, _)| one.cookie == socket.cookie),
            })
            .collect();
        // Of datagrams each is judged by itself.
        let left = older.iter().zip(&connections);
        let left = left.filter(|(socket, told)| !socket.is_datagrams() && !told.cut);
        let left = u64::try_from(left.count()).unwrap_or(u64::MAX);
        if left > 0 {
            let detail = "connections were open before: what goes through them is neither counted nor refused (see `attached`)";
            self.terms.note(Need::InheritedSockets, detail, left);
        }
        // What the policy is about first.
        connections.sort_by_key(|connection| match connection.verdict {
            Some(Verdict::Deny | Verdict::WouldDeny) => 0,
            Some(_) => 1,
            None => 2,
        });
        if let Some(more) = connections
            .len()
            .checked_sub(CONNECTIONS_MOST)
            .filter(|more| *more > 0)
        {
            connections.truncate(CONNECTIONS_MOST);
            let detail = "connections that were open before are not listed: there were too many";
            let more = u64::try_from(more).unwrap_or(u64::MAX);
            self.terms.note(Need::InheritedSockets, detail, more);
        }
        if let Some(to) = &mut self.file.attached {
            to.told.connections = connections;
        }
        self.note_unseen(&sockets);
    }

    /// What is open there and neither seen nor listed.
    fn note_unseen(&mut self, sockets: &Sockets) {
        for why in &sockets.unseen {
            let detail = format!("what was open before cannot be listed: {why}");
            self.terms.note(Need::InheritedSockets, detail, 0);
        }
        let foreign = sockets
            .foreign
            .iter()
            .filter(|socket| socket.is_connection() || socket.is_datagrams());
        for (number, socket) in foreign.enumerate() {
            if number == FOREIGN_MOST {
                let detail =
                    "more sockets that were made outside of the cgroup are held by its processes";
                self.terms.note(Need::InheritedSockets, detail, 0);
                break;
            }
            let holder = socket.pid.unwrap_or_default();
            let detail = format!(
                "process {holder} holds a socket at {} that was made outside of the cgroup: what goes through it is not seen",
                socket.local
            );
            self.terms.note(Need::InheritedSockets, detail, 0);
        }
    }

    /// Something was attached, or there is nothing to watch.
    fn is_attached(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), Refusal> {
        let (Some(_), Some(target)) = (&self.session, &self.target) else {
            let why = self.terms.gaps().first().map(|gap| gap.detail.clone());
            return Err(Refusal {
                cause: Cause::Unmet(Need::Bpf),
                what: "nothing can be attached".to_owned(),
                why: why.unwrap_or_default(),
                remedy: "`blackstart doctor` says what is missing".to_owned(),
            });
        };
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        if let Some(to) = &self.file.attached {
            notice(Notice::Attached {
                to: to.told.clone(),
                processes: target.pids().map_or(0, |pids| pids.len()),
            });
        }
        self.tell_where(notice);
        if self.cut && !self.terms.enforcing() {
            notice(Notice::Warning(
                "nothing is enforced, so that no connection is cut".to_owned(),
            ));
        }
        Ok(())
    }

    /// From there to the report.
    fn watch_over(
        mut self,
        signals: &Signals,
        time: Option<Duration>,
        notice: &mut dyn FnMut(Notice),
    ) -> Ended {
        let began = Instant::now();
        let end = time.and_then(|time| began.checked_add(time));
        let mut beside = Beside::default();
        let mut views = self.views.take();
        let mut judged = Judged {
            policy: self.policy.map(Cow::Borrowed),
            tables: self.tables.take(),
            search: std::mem::take(&mut self.search),
            may_enforce: self.terms.may_enforce(),
            broken_glass: false,
            ends_leases: true,
            enforcing: self.terms.enforcing(),
        };
        let place = match &self.target {
            Some(target) => Place::Given(target),
            None => Place::Made(None),
        };
        let mut on = Supervision {
            session: self.session.as_mut(),
            place,
            dir: self.dir.as_ref(),
            answerer: self.answerer.as_ref(),
            forwarder: self.forwarder.as_ref(),
            follow: None,
            judged: &mut judged,
            control: self.control.as_ref(),
            agent: None,
            file: &mut self.file,
            beside: &mut beside,
            notice: &mut *notice,
            told: Told::default(),
            detached: false,
            contacts: false,
            near: Vec::new(),
            pending: VecDeque::new(),
        };
        let until = match &self.target {
            Some(target) => on.until_over(target, views.as_mut(), signals, end),
            None => Until::Gone,
        };
        if let Err(error) = on.detach() {
            on.tell_warning(format!("programs could not be detached: {error}"));
        }
        on.last_events();
        if let Some(to) = &mut self.file.attached {
            to.told.until = Some(until);
        }
        let (record, ended_ns) = self.take_record(&mut beside);
        let usage = Usage {
            wall_seconds: Some(began.elapsed().as_secs_f64()),
            ..Usage::default()
        };
        self.file.wall_seconds = usage.wall_seconds;
        self.clean_up(&mut Vec::new(), notice);
        let end = End {
            ended_ns: Some(ended_ns),
            usage,
            limits: LimitFacts::default(),
            leftovers: Vec::new(),
            unsupervised_seconds: 0.0,
        };
        self.conclude(judged, record, end, (0, None), false, notice)
    }
}

/// What the policy says of a connection. Of names only those are known that stand in /etc/hosts.
fn judge(
    tables: &Tables,
    resolving: &Resolving,
    socket: &Open,
    selectors: u64,
    enforcing: bool,
) -> (Verdict, RuleId) {
    let address = socket.peer.ip().to_canonical();
    let is = |known: &IpAddr| known.to_canonical() == address;
    let port = socket.peer.port();
    let leases: Vec<Lease> = resolving
        .hosts
        .iter()
        .filter(|(_, given)| is(given))
        .filter_map(|(name, _)| Name::parse(name).ok())
        .map(|name| Lease {
            class: tables.class_of_name(&name),
            deny_class: 0,
        })
        .collect();
    let attempt = Attempt {
        address_class: tables.class_of_address(address),
        local: address.is_loopback() || resolving.own.iter().any(is),
        resolver_dns: socket.is_datagrams() && port == 53 && resolving.servers.iter().any(is),
        protocol: Protocol::from_number(socket.protocol.into()),
        port,
        selectors,
        leases: &leases,
    };
    let decision = decide(tables, &attempt);
    let verdict = match decision.verdict {
        Verdict::Deny if !enforcing => Verdict::WouldDeny,
        other => other,
    };
    (verdict, decision.rule)
}

impl Supervision<'_, '_> {
    /// Until somebody asks for the end, or the time is over, or the cgroup is gone.
    fn until_over(
        &mut self,
        target: &Target,
        mut views: Option<&mut Views>,
        signals: &Signals,
        end: Option<Instant>,
    ) -> Until {
        self.settle();
        let mut next_beat = Instant::now();
        let mut next_checkpoint = Instant::now() + CHECKPOINT;
        let mut next_look = Instant::now() + LOOK_AGAIN;
        let mut known = Resolving {
            servers: self.file.resolvers.clone(),
            search: self.file.search.clone(),
            own: self.file.own_addresses.clone(),
            hosts: Vec::new(),
        };
        loop {
            let now = Instant::now();
            if now >= next_beat {
                self.beat();
                if !target.exists() {
                    return Until::Gone;
                }
                self.look_behind_again();
                if let Some(views) = views.as_deref_mut() {
                    self.look_again(views, &mut known);
                }
                next_beat = now + HEARTBEAT;
            }
            if now >= next_checkpoint {
                self.checkpoint();
                next_checkpoint = Instant::now() + CHECKPOINT;
            }
            if now >= next_look {
                // With nobody there, nobody sees it otherwise than before.
                let pids = target.pids().unwrap_or_default();
                if let Some(views) = views.as_deref_mut().filter(|_| !pids.is_empty()) {
                    views.look(pids);
                }
                next_look = Instant::now() + LOOK_AGAIN;
            }
            if end.is_some_and(|end| now >= end) {
                return Until::Time;
            }
            let next = next_beat.min(next_checkpoint);
            let next = end.map_or(next, |end| end.min(next));
            self.wait(
                &[signals.fd()],
                next.saturating_duration_since(Instant::now()),
            );
            self.hear_lookups();
            self.take_events();
            self.hear();
            while let Some(received) = signals.next() {
                match Signal::from_named_raw(received.signal) {
                    // Who started us had reasons for what is ignored, and TERM is there for the end.
                    Some(Signal::INT | Signal::QUIT | Signal::HUP)
                        if process::ignores(received.signal) => {}
                    Some(Signal::INT | Signal::QUIT | Signal::TERM | Signal::HUP) => {
                        return Until::Asked;
                    }
                    Some(Signal::TSTP) => {
                        let _ = stop_self(received.signal);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Other name servers, or other addresses of its own, than before?
    fn look_again(&mut self, views: &mut Views, known: &mut Resolving) {
        if views.is_late(READ_MOST) {
            self.tell_warning(
                "resolv.conf cannot be read: the programs go by what it said before".to_owned(),
            );
        }
        let Some(mut now) = views.seen() else { return };
        now.hosts = Vec::new();
        if now == *known {
            return;
        }
        if let Some(session) = self.session.as_deref_mut() {
            let rows = |of: &'_ Resolving| (of.servers.clone(), of.own.clone());
            let (before, after) = (rows(known), rows(&now));
            let told = session.know(
                Known {
                    resolvers: &before.0,
                    own_addresses: &before.1,
                },
                Known {
                    resolvers: &after.0,
                    own_addresses: &after.1,
                },
            );
            if let Err(error) = told {
                let why = described(&error);
                self.tell_warning(format!(
                    "resolv.conf has changed, and the programs go by what it said before: {why}"
                ));
            }
        }
        if now.search != known.search {
            let search = now
                .search
                .iter()
                .filter_map(|domain| Name::parse(domain).ok());
            self.judged.search = search.collect();
            let denies = blackstart_core::policy::Effect::Deny;
            if self
                .judged
                .policy
                .as_ref()
                .is_some_and(|policy| policy.default == denies)
            {
                self.tell_warning(
                    "the search list of resolv.conf has changed; `blackstart reload` judges by it"
                        .to_owned(),
                );
            }
        }
        // What was known once was no stranger then.
        let earlier = std::mem::take(&mut self.file.known_addresses);
        self.file.knows(&now);
        for address in earlier {
            if !self.file.known_addresses.contains(&address) {
                self.file.known_addresses.push(address);
            }
        }
        if let Some(dir) = self.dir
            && let Err(error) = dir.write_run(self.file)
        {
            tracing::warn!(%error, "the run's file cannot be written");
        }
        *known = now;
    }
}

/// Numbers of the processes that were found, by their ids.
pub(super) type FoundSubjects = HashMap<u32, SubjectId>;
