//! The egress lockfile: the destinations that a deployment may reach, with the executables that reach them.
//!
//! It lies beside the deployment's script and is committed with it. A run is compared with it: that a tool calls a
//! place which it did not call before is seen on the day it begins, with the change of the tool that brought it.
//! It refuses nothing; that is a policy's affair.
//!
//! The file is JSON with sorted keys, a line for each entry, so that a change of it reads well in a review.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::report::{
    Finding, Flow, Guarded, Parts, Severity, Subject, Verdict, absolute, image_name, image_script,
    rule_text, strangers,
};
use crate::tables::{RULE_LOCAL, RULE_RESOLVER_SOCKET};

/// Version of the file's shape; a reader refuses a higher one.
pub const VERSION: u32 = 1;

/// What it is called where nobody says otherwise.
pub const FILE_NAME: &str = "blackstart.lock";

/// Directories in which names are made up anew at each run.
const TEMPORARY: &[&str] = &["/tmp", "/var/tmp", "/dev/shm", "/run/user"];

/// Executables that nobody knows are called this.
const UNKNOWN: &str = "?";

/// What a run reached, or may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`VERSION`].
    version: u32,
    /// Destinations (`github.com:443/tcp`, `10.0.0.1:53/udp`, `unix:/run/x.sock`), and by which executables.
    destinations: BTreeMap<String, BTreeSet<String>>,
    /// Executables, with the digest of each that could be read (`sha256:…`).
    executables: BTreeMap<String, Option<String>>,
}

/// How paths are written.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The directory that the command was started in: relative paths are taken from there.
    pub started_in: Option<&'a str>,
    /// The directory of the lockfile. What lies below is written from there (`./deploy.sh`), since a checkout lies
    /// elsewhere on each host.
    pub beside: Option<&'a str>,
}

impl Default for Lock {
    fn default() -> Self {
        Self {
            version: VERSION,
            destinations: BTreeMap::new(),
            executables: BTreeMap::new(),
        }
    }
}

impl Lock {
    /// Read one. The error says what is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        // Of a newer one the rest may have any shape.
        if let Ok(Versioned { version }) = serde_json::from_str(text)
            && version > VERSION
        {
            return Err(format!(
                "it has version {version}, and this blackstart reads versions up to {VERSION}"
            ));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// As it is written to the file.
    pub fn text(&self) -> String {
        // Maps with text for keys and lists of texts cannot fail to be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// What a run reached for. `digest` gives that of the file at an absolute path.
    pub fn of(
        report: &dyn Parts,
        places: Places<'_>,
        digest: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Self {
        let mut lock = Self::default();
        for (reached, who) in reached(report, places) {
            // What was refused is no dependency that is there to be kept.
            if reached.refused {
                continue;
            }
            let by = lock.destinations.entry(reached.destination).or_default();
            by.insert(who.written.clone());
            lock.executables
                .entry(who.written)
                .or_insert_with(|| digest(&who.path?));
        }
        lock
    }

    /// How a run differs from this lock; `now` is its own. Where the command did not succeed, or not all was seen, nothing is said of what it did
    /// not reach. What was refused was reached for.
    pub fn compare(&self, now: &Self, report: &dyn Parts, places: Places<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut told = BTreeSet::new();
        let mut met: BTreeSet<&str> = BTreeSet::new();
        let reached = reached(report, places);
        for (reached, who) in &reached {
            let known = self.known(reached);
            met.extend(known.iter().map(|(destination, _)| destination.as_str()));
            if known.iter().any(|(_, by)| by.contains(&who.written))
                || !told.insert((&reached.destination, &who.written))
            {
                continue;
            }
            let changed = self.changed(now, &who.written);
            let since = match changed {
                Some(_) => ", which has changed since the lock was written,",
                None if self.executables.contains_key(&who.written) => "",
                None => ", which the lock does not have,",
            };
            let word = if !known.is_empty() {
                "contacts, as others did before,"
            } else {
                "newly contacts"
            };
            found.push(Finding {
                command: reached.subject.as_ref().map(|subject| subject.argv.clone()),
                subjects: reached.subject.iter().map(|subject| subject.id).collect(),
                ..finding(
                    "lock_new",
                    Severity::Warning,
                    &[&reached.destination, &who.written],
                    format!("{}{since} {word} {}", who.written, reached.destination),
                    "if the deployment may need it, write the lock anew with `--update-lock`",
                )
            });
        }
        for written in now.executables.keys() {
            if let Some((before, after)) = self.changed(now, written) {
                found.push(finding(
                    "lock_changed",
                    Severity::Info,
                    &[written],
                    format!(
                        "{written} has changed since the lock was written ({} is now {})",
                        short(before),
                        short(after)
                    ),
                    "if that was meant, write the lock anew with `--update-lock`",
                ));
            }
        }
        let all_seen = report.run().guarded == Guarded::Yes && report.coverage().lost == 0;
        if report.run().exit_code == Some(0) && all_seen {
            let gone = self
                .destinations
                .keys()
                .filter(|destination| !met.contains(destination.as_str()));
            found.extend(gone.map(|destination| {
                finding(
                    "lock_unused",
                    Severity::Info,
                    &[destination],
                    format!("the lock has {destination}, and this run did not contact it"),
                    "if it is needed no more, write the lock anew with `--update-lock`",
                )
            }));
        }
        found
    }

    /// The entries that a contact is one of. A lookup that was refused is all that there is of what it was for: that
    /// may be any port of the name.
    fn known(&self, reached: &Reached) -> Vec<(&String, &BTreeSet<String>)> {
        let wanted = &reached.destination;
        if !reached.lookup {
            return self
                .destinations
                .get_key_value(wanted)
                .into_iter()
                .collect();
        }
        self.destinations
            .range(wanted.clone()..)
            .take_while(|(destination, _)| destination.starts_with(wanted.as_str()))
            .filter(|(destination, _)| host(destination) == wanted)
            .collect()
    }

    /// The digests of an executable, if it has another one now.
    fn changed<'a>(&'a self, now: &'a Self, written: &str) -> Option<(&'a str, &'a str)> {
        let before = self.executables.get(written)?.as_deref()?;
        let after = now.executables.get(written)?.as_deref()?;
        (before != after).then_some((before, after))
    }
}

fn finding(kind: &str, severity: Severity, about: &[&str], title: String, fix: &str) -> Finding {
    Finding {
        fix: Some(fix.to_owned()),
        ..Finding::new(kind, severity, &title, about)
    }
}

/// The beginning of a digest, as much as a person compares.
fn short(digest: &str) -> &str {
    let end = digest.find(':').map_or(0, |colon| colon + 1) + 12;
    digest.get(..end).unwrap_or(digest)
}

/// A destination, and the process that reached for it.
struct Reached {
    destination: String,
    subject: Option<Subject>,
    refused: bool,
    /// Only the name was asked for, and refused: the destination is a name.
    lookup: bool,
}

/// An executable.
#[derive(Clone)]
struct Executable {
    /// As a lock has it.
    written: String,
    /// Where it is read; none where names are made up, and where nobody knows it.
    path: Option<String>,
}

/// Every destination outside of this host, with who reached for it, in the order of the report; then the names
/// that were refused.
fn reached(report: &dyn Parts, places: Places<'_>) -> Vec<(Reached, Executable)> {
    let subjects: HashMap<u64, Subject> = report
        .subjects()
        .map(|subject| (subject.id, subject.into_owned()))
        .collect();
    let told = report.told_by_another();
    let own = &report.run().addresses;
    let outside = |flow: &Flow| {
        let is_local = flow.address.to_canonical().is_loopback()
            || own.contains(&flow.address)
            || flow.rule == rule_text(None, RULE_LOCAL);
        let is_resolver = report.run().asks_resolver(flow);
        let is_probe = flow.protocol == "udp" && flow.port == 0;
        !is_local && !is_resolver && !is_probe
    };
    let strangers = strangers(report);
    let is_stranger = |subject: &Option<u64>| subject.is_some_and(|id| strangers.contains(&id));
    let flows = report
        .flows()
        .zip(told)
        .filter(|(flow, told)| !told && outside(flow) && !is_stranger(&flow.subject))
        .map(|(flow, _)| {
            let refused = flow.verdict == Verdict::Deny;
            (destination(&flow), flow.subject, refused)
        })
        .collect::<Vec<_>>();
    // Of a name that was refused nothing else need follow: no address was given out for it.
    let followed: BTreeSet<&str> = flows
        .iter()
        .map(|(destination, ..)| host(destination))
        .collect();
    let lookups: Vec<_> = report
        .names()
        .filter(|lookup| lookup.verdict == Verdict::Deny && !followed.contains(&*lookup.name))
        .map(|lookup| (lookup.name.clone(), lookup.subject, true))
        .collect();
    let sockets = report
        .delegates()
        .iter()
        .filter(|delegate| {
            delegate.is_unix()
                && delegate.rule != rule_text(None, RULE_RESOLVER_SOCKET)
                && !is_stranger(&delegate.subject)
        })
        .map(|delegate| {
            let refused = delegate.verdict == Verdict::Deny;
            (format!("unix:{}", delegate.path), delegate.subject, refused)
        });
    let attempts = flows.into_iter().chain(sockets);
    let attempts = attempts.map(|it| (it, false));
    let lookups = lookups.into_iter().map(|it| (it, true));
    attempts
        .chain(lookups)
        .map(|((destination, subject, refused), lookup)| {
            let subject = subject.and_then(|id| subjects.get(&id)).cloned();
            let who = executable(subject.as_ref(), places);
            let reached = Reached {
                destination,
                subject,
                refused,
                lookup,
            };
            (reached, who)
        })
        .collect()
}

/// The name or address of a destination, as a lock has it.
fn host(destination: &str) -> &str {
    if destination.starts_with("unix:") {
        return destination;
    }
    let whole = destination
        .rsplit_once('/')
        .map_or(destination, |(whole, _)| whole);
    whole.rsplit_once(':').map_or(whole, |(host, _)| host)
}

fn destination(flow: &Flow) -> String {
    let host = match (&flow.name, flow.address) {
        (Some(name), _) => name.clone(),
        (None, IpAddr::V6(v6)) => format!("[{v6}]"),
        (None, IpAddr::V4(v4)) => v4.to_string(),
    };
    match flow.port {
        0 => format!("{host}/{}", flow.protocol),
        port => format!("{host}:{port}/{}", flow.protocol),
    }
}

/// What a process is an image of: a script counts, and not its interpreter.
fn executable(subject: Option<&Subject>, places: Places<'_>) -> Executable {
    let unknown = Executable {
        written: UNKNOWN.to_owned(),
        path: None,
    };
    let Some(subject) = subject else {
        return unknown;
    };
    let image = image_script(&subject.exe, &subject.argv).unwrap_or(&subject.exe);
    if image.is_empty() {
        return unknown;
    }
    let path = absolute(image, places.started_in);
    let beside = places
        .beside
        .and_then(|directory| Some((directory, path.strip_prefix(directory)?)))
        .filter(|(directory, rest)| directory.ends_with('/') || rest.starts_with('/'));
    if let Some((_, rest)) = beside {
        return Executable {
            written: format!("./{}", rest.trim_start_matches('/')),
            path: Some(path),
        };
    }
    let temporary = TEMPORARY.iter().any(|directory| {
        path.strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
    });
    if temporary || !path.starts_with('/') {
        let name = image_name(&subject.exe, &subject.argv);
        return Executable {
            written: format!("*/{name}"),
            path: None,
        };
    }
    Executable {
        written: path.clone(),
        path: Some(path),
    }
}
