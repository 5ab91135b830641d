//! Where the paths of unix sockets have led, under rules that deny some.
//!
//! A rule is about a path, and hooks without LSM cannot tell where a link or a bind mount leads. So it is found out when the contact
//! is over: which file the path means now, and which server has bound that (sock_diag(7)). On a thread of its own, and by what
//! the kernel has in memory: whoever has just reached for a socket has had its path looked up, and a file system that would have
//! to be asked may not answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use blackstart_core::record::{Reached, Row, SubjectId, Verdict};
use blackstart_core::tables::RuleId;

use place::Place;
use servers::Servers;

pub(crate) use denials::Denials;

mod denials;
mod place;
mod servers;

/// Paths that are looked behind.
const MOST: usize = 1024;
/// How often one is looked at that nothing could be told of.
const TRIES: u32 = 3;
/// How long the end of a run waits for the last look.
const LAST: Duration = Duration::from_millis(500);
/// What a look needs of stack.
const STACK: usize = 256 << 10;

/// A path that was reached for.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    /// As the record writes it.
    pub(crate) path: String,
    /// By which process,
    pub(crate) tgid: u32,
    /// that lives since then, in nanoseconds of the wall clock.
    pub(crate) since: i64,
    /// How often so far.
    pub(crate) attempts: u64,
}

/// What is behind a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Behind {
    /// A socket: the name under which its server bound it, and its own path.
    Socket(Vec<String>),
    /// A socket whose server is not known: its own path.
    Unserved(String),
    /// No socket, and there was none.
    Nobody,
    /// It could not be told.
    Unknown,
}

impl Behind {
    fn is_known(&self) -> bool {
        matches!(self, Self::Socket(_) | Self::Nobody)
    }
}

#[derive(Debug)]
struct Seen {
    behind: Behind,
    tries: u32,
    /// Of the contacts at the last look.
    attempts: u64,
}

impl Seen {
    fn is_open(&self) -> bool {
        !self.behind.is_known() && self.tries < TRIES
    }
}

type Found = Vec<(String, Behind)>;

/// What is known of the paths of a run.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    seen: BTreeMap<String, Seen>,
    /// A look that goes on.
    looking: Option<Receiver<Found>>,
    /// What it means for whom.
    judged: BTreeMap<(String, SubjectId), (Verdict, RuleId, String)>,
    /// Rules are there for which it matters.
    matters: bool,
}

impl Aliases {
    /// From now on, or no more, something depends on where paths lead.
    pub(crate) fn matter(&mut self, matters: bool) {
        self.matters = matters;
    }

    /// Look behind these as far as they are new, or may have come to be another's; the `last` time also behind those that were
    /// reached for again.
    pub(crate) fn look(&mut self, contacts: &[Contact], last: bool) {
        self.take();
        if self.looking.is_some() || !self.matters {
            return;
        }
        let mut wanted: BTreeMap<&str, Contact> = BTreeMap::new();
        for contact in contacts
            .iter()
            .filter(|contact| contact.path.starts_with('/'))
        {
            if self.seen.len() >= MOST && !self.seen.contains_key(&contact.path) {
                continue;
            }
            let met = wanted.entry(&contact.path).or_insert_with(|| Contact {
                attempts: 0,
                ..contact.clone()
            });
            met.attempts += contact.attempts;
            met.since = met.since.min(contact.since);
        }
        let news = |contact: &Contact| match self.seen.get(&contact.path) {
            Some(seen) if !seen.behind.is_known() => last || seen.is_open(),
            // Polled for, as a rule, until it is there.
            Some(seen) => {
                contact.attempts > seen.attempts && (last || seen.behind == Behind::Nobody)
            }
            None => true,
        };
        let wanted: Vec<Contact> = wanted.into_values().filter(news).collect();
        if wanted.is_empty() {
            return;
        }
        for contact in &wanted {
            let seen = self.seen.entry(contact.path.clone()).or_insert(Seen {
                behind: Behind::Unknown,
                tries: 0,
                attempts: 0,
            });
            seen.tries += 1;
            seen.attempts = contact.attempts;
        }
        let (sender, receiver) = sync_channel(1);
        let started = thread::Builder::new()
            .name("aliases".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Nobody may be left to hear it.
                let _ = sender.send(look_behind(&wanted));
            });
        match started {
            Ok(_) => self.looking = Some(receiver),
            Err(error) => tracing::debug!(%error, "no thread to look behind paths"),
        }
    }

    fn take(&mut self) {
        let Some(looking) = &self.looking else { return };
        match looking.try_recv() {
            Ok(found) => self.learn(found),
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => {}
        }
        self.looking = None;
    }

    /// Hear what the look finds that goes on, as far as it ends soon.
    pub(crate) fn finish(&mut self) {
        let Some(looking) = self.looking.take() else {
            return;
        };
        match looking.recv_timeout(LAST) {
            Ok(found) => self.learn(found),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::debug!("paths were not looked behind in time");
            }
        }
    }

    fn learn(&mut self, found: Found) {
        for (path, behind) in found {
            if let Some(seen) = self.seen.get_mut(&path) {
                // What was found once holds for the contacts before it.
                if behind.is_known() || !matches!(seen.behind, Behind::Socket(_)) {
                    seen.behind = behind;
                }
            }
        }
    }

    /// Does something depend on where paths lead?
    pub(crate) fn matters(&self) -> bool {
        self.matters
    }

    /// May another look find out more?
    pub(crate) fn wants_another_look(&self) -> bool {
        self.matters && (self.looking.is_some() || self.seen.values().any(Seen::is_open))
    }

    /// The names of the socket that a path led to, if it is another one's.
    pub(crate) fn names(&self, path: &str) -> &[String] {
        match self.seen.get(path).map(|seen| &seen.behind) {
            Some(Behind::Socket(names)) => names,
            Some(Behind::Unserved(name)) => std::slice::from_ref(name),
            _ => &[],
        }
    }

    /// For this subject the socket behind the path is denied: true if that is new.
    pub(crate) fn judge(
        &mut self,
        path: &str,
        subject: SubjectId,
        (verdict, rule): (Verdict, RuleId),
        name: &str,
    ) -> bool {
        let key = (path.to_owned(), subject);
        let told = (verdict, rule, name.to_owned());
        self.judged.insert(key, told).is_none()
    }

    /// Say in a row of the record where its path led.
    pub(crate) fn complete(&self, row: &mut Row) {
        let Row::Delegate(row) = row else { return };
        let passed = matches!(row.verdict, Verdict::Allow | Verdict::Waived);
        let has_no_path = row.path.starts_with('@') || row.path.parse::<SocketAddr>().is_ok();
        if !passed || has_no_path {
            return;
        }
        if let Some((verdict, rule, name)) = self.judged.get(&(row.path.clone(), row.subject)) {
            row.verdict = *verdict;
            row.rule = *rule;
            row.reached = Reached::Alias(name.clone());
        } else if self.matters
            && self
                .seen
                .get(&row.path)
                .is_none_or(|seen| !seen.behind.is_known())
        {
            row.reached = Reached::Unknown;
        }
    }
}

/// What is behind each of them, now.
fn look_behind(contacts: &[Contact]) -> Found {
    let places: Vec<_> = contacts.iter().map(Place::of).collect();
    let mut servers = Servers::default();
    for (contact, place) in contacts.iter().zip(&places) {
        if matches!(place, Place::Socket(..)) {
            servers.add_those_near(contact.tgid);
        }
    }
    let behind = |place| match place {
        Place::Socket(file, path) => match servers.name_of(file) {
            Some(bound) => {
                let mut names = vec![path];
                // What is relative says nothing without the directory that its server worked in.
                if bound.starts_with(['/', '@']) {
                    names.insert(0, bound.to_owned());
                }
                Behind::Socket(names)
            }
            None => Behind::Unserved(path),
        },
        Place::Nothing => Behind::Nobody,
        Place::Unknown => Behind::Unknown,
    };
    let paths = contacts.iter().map(|contact| contact.path.clone());
    paths.zip(places.into_iter().map(behind)).collect()
}
