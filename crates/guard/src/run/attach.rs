//! Attaching to what was there before: another way to begin, and to end, what a run is.
//!
//! The cgroup is somebody else's. Programs are attached to it and taken off again, and nothing else happens to it: no
//! process of ours goes in, none of its own is moved, limited, signalled or waited for. Why so, and what follows from it:
//! docs/decisions/0022-attach.md.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use blackstart_core::decide::{Attempt, Lease, decide};
use blackstart_core::name::Name;
use blackstart_core::record::{SubjectId, Verdict};
use blackstart_core::report::{Attached, Connection, Guarded, rule_text};
use blackstart_core::tables::{Protocol, RuleId, Tables};
use blackstart_kernel::spawn::Signals;
use blackstart_kernel::{Error, FoundSocket};

use super::{Setup, system, terms_of};
use crate::cgroup::{Meant, Target};
use crate::connections::{Open, Sockets, hold_sockets};
use crate::orphan::described;
use crate::plan::Need;
use crate::refusal::{Cause, Refusal};
use crate::resolv::{Resolving, Views};
use crate::state::{AttachedTo, RunDir, StateDir};
use crate::story::wall_ns;
use crate::{Ended, Notice, Request, found, process};
use watch::{Pace, Signalled};

pub(crate) mod unit;
pub(crate) mod watch;

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
    setup.is_about(target);
    setup.cut = order.cut;
    match setup
        .prepare(notice)
        .and_then(|()| setup.is_attached(notice))
    {
        Ok(()) => setup
            .watch_over(&mut Signalled(&signals), Pace::ALONE, order.time, notice)
            .ok_or_else(|| {
                let nobody = io::Error::other("nobody sees to it");
                system("the watch was left", &nobody)
            }),
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
    /// What is to be guarded.
    fn is_about(&mut self, target: Target) {
        self.file.attached = Some(AttachedTo {
            told: Attached {
                by: target.by,
                target: target.typed.clone(),
                cgroup: target.path(),
                until: None,
                restarts: 0,
                connections: Vec::new(),
            },
            id: target.id(),
            links: Vec::new(),
            left_ns: None,
        });
        self.target = Some(target);
    }

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
        // What was made ahead has shown it before it was told what to judge.
        let probed = match session.is_pinned() {
            true => Ok(()),
            false => session.self_probe(cgroup.fd()),
        };
        let moved = session.move_to(target.fd()).and_then(|()| {
            let pids = target.pids().unwrap_or_default();
            let subjects = session.found(tables, &found::processes(&pids))?;
            // To ask for sockets takes longer than all else, and what starts just now has none, or a few.
            let sockets = match self.starts && !hold_sockets(&pids) {
                true => Vec::new(),
                false => Sockets::of(&pids, &target.ids()).own,
            };
            let datagrams: Vec<FoundSocket> = sockets
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
            session.pin_moved()?;
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
            return Err(Refusal {
                cause: Cause::Unmet(Need::Bpf),
                what: "nothing can be attached".to_owned(),
                why: self.terms.first_gap(),
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

/// Numbers of the processes that were found, by their ids.
pub(super) type FoundSubjects = HashMap<u32, SubjectId>;
