//! Which unix sockets are put out of a command's reach, and which denials cannot be held so.
//!
//! What lies over a socket is there for every process of the run, and only as long as the socket keeps its name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use blackstart_core::explain::RESOLVER_SOCKETS;
use blackstart_core::path::PathPattern;
use blackstart_core::policy::{self, Policy, Rule, Target};
use blackstart_core::report::Mode;
use blackstart_core::tables::{Effect, Tables};
use blackstart_kernel::Feature;
use blackstart_kernel::support::paths_of;

use crate::plan::{Need, Terms};
use crate::refusal::Refusal;

/// Names that are looked at below the directory of a pattern.
const MOST_NAMES: usize = 100_000;

/// A denial that is enforced and does not hold.
#[derive(Debug)]
pub(crate) struct Open<'p> {
    /// The rule.
    pub(crate) rule: &'p Rule,
    /// Why not.
    pub(crate) why: String,
}

/// What is to be out of reach.
#[derive(Debug, Default)]
pub(crate) struct Hidden<'p> {
    /// The places of sockets.
    pub(crate) paths: Vec<PathBuf>,
    /// Denials that no cover holds.
    pub(crate) open: Vec<Open<'p>>,
    /// Denials of what is not there, or of more than is.
    pub(crate) absent: Vec<&'p Rule>,
}

/// The enforced denials of a policy, none of which holds.
pub(crate) fn none(policy: &Policy) -> Vec<Open<'_>> {
    let why = "this kernel has no hooks for unix sockets";
    enforced(policy)
        .map(|(rule, _)| Open {
            rule,
            why: why.to_owned(),
        })
        .collect()
}

fn enforced(policy: &Policy) -> impl Iterator<Item = (&Rule, &PathPattern)> {
    policy.rules.iter().filter_map(|rule| match &rule.target {
        Target::Unix(pattern) if denies_socket(rule) && rule.mode == Mode::Enforce => {
            Some((rule, pattern))
        }
        _ => None,
    })
}

/// A rule about unix sockets needs hooks that see them by path or by name, or what it denies must be out of the command's reach;
/// `open` are those of which that is not so.
pub(crate) fn unix_rules(
    policy: &Policy,
    features: &BTreeSet<Feature>,
    open: &[Open<'_>],
    terms: &mut Terms,
) -> Result<(), Refusal> {
    let held = [Feature::UnixSockets, Feature::SocketNames];
    if held.iter().any(|feature| features.contains(feature)) {
        return Ok(());
    }
    if let Some(open) = open.first() {
        let why = format!("{} has no effect: {}", place(open.rule), open.why);
        return terms.lack(Need::UnixRules, why);
    }
    let recorded = [Feature::Contacts, Feature::ContactCalls];
    if let Some(rule) = policy.rules.iter().find(|rule| denies_socket(rule))
        && !recorded.iter().any(|feature| features.contains(feature))
    {
        let why = format!(
            "{}: contacts with unix sockets are not seen on this kernel",
            place(rule)
        );
        terms.note(Need::UnixRules, why, 0);
    }
    Ok(())
}

/// A rule as its author finds it.
pub(crate) fn place(rule: &Rule) -> String {
    format!("`{}` ({}:{})", rule.text, rule.file, rule.line)
}

/// Does it deny unix sockets?
fn denies_socket(rule: &Rule) -> bool {
    rule.effect == policy::Effect::Deny && matches!(rule.target, Target::Unix(_))
}

impl<'p> Hidden<'p> {
    /// What is there of what the policy denies to everybody, and the sockets of daemons that resolve names where nobody sees it.
    /// With `enforcing` unset, only these.
    pub(crate) fn look(policy: Option<&'p Policy>, tables: &Tables, enforcing: bool) -> Self {
        let mut hidden = Self::default();
        for (rule, pattern) in policy.into_iter().flat_map(enforced) {
            if !enforcing {
                break;
            }
            let open = |why: &str| Open {
                rule,
                why: why.to_owned(),
            };
            if pattern.to_string().starts_with('@') {
                hidden.open.push(open("an abstract name cannot be hidden"));
                continue;
            }
            if rule.process.is_some() {
                let why = "it is about some processes, and what is hidden is hidden from all";
                hidden.open.push(open(why));
                continue;
            }
            let only = pattern.only();
            let sockets = match &only {
                Some(path) => Ok(vec![PathBuf::from(path)]),
                None => sockets_below(&pattern.directory()),
            };
            let sockets = match sockets {
                Ok(sockets) => sockets,
                Err(error) => {
                    hidden.open.push(open(&format!(
                        "what it means cannot be found below {}: {error}",
                        pattern.directory().display()
                    )));
                    continue;
                }
            };
            let mut covered = false;
            for socket in sockets.iter().filter(|path| is_socket(path)) {
                match tables.ruling_of_socket(socket.as_os_str().as_encoded_bytes()) {
                    None => {
                        let what = socket.display();
                        hidden.open.push(open(&format!(
                            "what holds for {what} depends on the process, and what is hidden is hidden from all"
                        )));
                    }
                    Some(ruling) if ruling.effect == Effect::Deny && ruling.enforce => {
                        covered |= hidden.add(socket);
                    }
                    Some(_) => {}
                }
            }
            if only.is_none() || !covered {
                hidden.absent.push(rule);
            }
        }
        for socket in RESOLVER_SOCKETS.iter().map(Path::new) {
            if is_socket(socket) {
                hidden.add(socket);
            }
        }
        hidden.paths.sort();
        hidden.paths.dedup();
        hidden
    }

    /// Is it still there, at one path at least?
    fn add(&mut self, socket: &Path) -> bool {
        match paths_of(socket) {
            Ok(paths) => {
                self.paths.extend(paths);
                true
            }
            Err(error) => {
                tracing::debug!(%error, "{} is gone", socket.display());
                false
            }
        }
    }
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.file_type().is_socket())
}

/// Sockets, and links that may lead to some, in a directory and those below it.
fn sockets_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut left, mut names) = (Vec::new(), vec![directory.to_owned()], 0);
    while let Some(directory) = left.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            names += 1;
            if names > MOST_NAMES {
                let why = format!("there are more than {MOST_NAMES} names");
                return Err(io::Error::other(why));
            }
            let entry = entry?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_socket() || kind.is_symlink() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use blackstart_core::policy;
    use blackstart_core::tables::{Facts, compile};

    use super::*;

    fn policy(rules: &str) -> Policy {
        let text =
            format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n{rules}");
        policy::alone(&text, "p.yaml").unwrap().policy
    }

    /// Paths below `dir`, rules that do not hold, rules of what is not there.
    fn looked(dir: &Path, rules: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
        let policy = policy(&rules.replace("DIR", &dir.display().to_string()));
        let tables = compile(&policy, &Facts::default()).unwrap();
        let hidden = Hidden::look(Some(&policy), &tables, true);
        let below = |path: &PathBuf| {
            let path = path.strip_prefix(dir).ok()?;
            Some(path.display().to_string())
        };
        let text = |rule: &Rule| rule.text.rsplit('/').next().unwrap_or_default().to_owned();
        (
            hidden.paths.iter().filter_map(below).collect(),
            hidden.open.iter().map(|open| text(open.rule)).collect(),
            hidden.absent.iter().map(|rule| text(rule)).collect(),
        )
    }

    #[test]
    fn sockets_are_hidden_that_are_there_and_denied_to_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("deep")).unwrap();
        let names = ["one", "two", "three", "deep/four"];
        let _daemons = names.map(|name| UnixListener::bind(dir.join(name)).unwrap());
        fs::write(dir.join("file"), "").unwrap();
        std::os::unix::fs::symlink(dir.join("deep"), dir.join("link")).unwrap();
        let of = |text: &[&str]| {
            text.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let none = of(&[]);

        let plain = "  - deny: unix:DIR/one\n  - deny: unix:DIR/nobody\n  - deny: unix:DIR/file\n";
        assert_eq!(
            looked(&dir, plain),
            (of(&["one"]), none.clone(), of(&["nobody", "file"]))
        );
        assert_eq!(
            looked(&dir, "  - deny: unix:DIR/link/four\n"),
            (of(&["deep/four"]), none.clone(), none.clone())
        );
        let pattern = "  - deny: unix:DIR/t*\n  - allow: unix:DIR/two\n";
        assert_eq!(
            looked(&dir, pattern),
            (of(&["three"]), none.clone(), of(&["t*"]))
        );
        let all = "  - deny: unix:DIR/**\n";
        let sorted = of(&["deep/four", "one", "three", "two"]);
        assert_eq!(looked(&dir, all), (sorted, none.clone(), of(&["**"])));
        let process = "  - deny: unix:DIR/one\n  - { allow: \"unix:DIR/one\", process: curl }\n";
        assert_eq!(
            looked(&dir, process),
            (none.clone(), of(&["one"]), of(&["one"]))
        );
        let observed = "  - { deny: \"unix:DIR/one\", mode: observe }\n";
        assert_eq!(
            looked(&dir, observed),
            (none.clone(), none.clone(), none.clone())
        );
        let (paths, open, _) = looked(&dir, "  - deny: unix:@name\n");
        assert_eq!((paths, open.len()), (none, 1));
    }

    #[test]
    fn a_rule_about_a_socket_is_held_by_hooks_or_by_a_cover_or_refused_by_name() {
        let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - deny: unix:/run/docker.sock\n";
        let policy = blackstart_core::policy::alone(text, "p.yaml")
            .unwrap()
            .policy;
        let open = none(&policy);
        let hooks = BTreeSet::from([Feature::UnixSockets]);
        let (unhooked, blind) = (BTreeSet::from([Feature::Contacts]), BTreeSet::new());
        let judged = |features, open, accepted: &[&str]| {
            let accepted: Vec<_> = accepted.iter().map(|&kind| kind.to_owned()).collect();
            let mut terms = Terms::new(true, &accepted).unwrap();
            let outcome = unix_rules(&policy, features, open, &mut terms);
            outcome.map(|()| terms.gaps().len())
        };
        assert_eq!(judged(&hooks, &open, &[]), Ok(0));
        assert_eq!(judged(&unhooked, &[], &[]), Ok(0));
        assert_eq!(judged(&unhooked, &open, &["unix_rules"]), Ok(1));
        assert_eq!(judged(&blind, &[], &[]), Ok(1), "nobody sees it");
        let refusal = judged(&unhooked, &open, &[]).unwrap_err();
        assert_eq!(refusal.cause, crate::Cause::Unmet(Need::UnixRules));
        let told = refusal.to_string();
        for text in ["`deny unix:/run/docker.sock` (p.yaml:5)", "--hide-sockets"] {
            assert!(told.contains(text), "{told}");
        }
    }
}
