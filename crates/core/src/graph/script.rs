//! Which destinations a deployment's author wrote down, and which a tool knew by itself: what parts a direct
//! dependency from a hidden one.
//!
//! A destination is *named* if it stands in the run's command line, in a script below the command's own
//! directory that the run executed, or in the arguments of what such a script executed itself. A tool may
//! be a script too; it is not the deployment's own if it is installed: in a directory for programs, beside
//! its interpreter (a virtual environment), among packages, or below a directory that begins with a dot.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::name::Name;
use crate::report::{Parts, Report, Subject, absolute, image_script};

/// Directories for programs.
const PROGRAMS: &[&str] = &[
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/games",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/snap/bin",
];
/// Directories below which everything is installed.
const INSTALLED: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",
    "/usr/local/lib",
    "/nix/store",
];
/// Directories of packages, wherever they are.
const PACKAGES: &[&str] = &["node_modules", "site-packages", "dist-packages"];

/// A script of the deployment's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnScript {
    /// Its path; absolute if the working directory was given.
    pub path: String,
    /// The subjects that ran it.
    pub subjects: Vec<u64>,
}

/// The scripts below the command's own directory that the run executed. `directory` is the one that the
/// command was started in: relative paths are taken from there.
pub fn own_scripts(report: &dyn Parts, directory: Option<&str>) -> Vec<OwnScript> {
    let Some(own) = own_directory(report, directory) else {
        return Vec::new();
    };
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for subject in report.subjects() {
        let Some(script) = image_script(&subject.exe, &subject.argv) else {
            continue;
        };
        let path = absolute(script, directory);
        let Some(below) = below(&path, &own) else {
            continue;
        };
        let foreign = below
            .split('/')
            .any(|part| part.starts_with('.') || PACKAGES.contains(&part));
        if !foreign && !is_installed(&path) && !beside_interpreter(&subject, &path, directory) {
            found.entry(path).or_default().push(subject.id);
        }
    }
    found
        .into_iter()
        .map(|(path, subjects)| OwnScript { path, subjects })
        .collect()
}

/// Which of the report's destinations a text names, sorted.
pub fn named_in(report: &dyn Parts, text: &str) -> Vec<String> {
    let words = Words::of(text);
    let mut named = BTreeSet::new();
    for lookup in report.names() {
        if words.names.contains(&lookup.name) {
            named.insert(lookup.name.clone());
        }
    }
    for flow in report.flows() {
        if let Some(name) = &flow.name
            && words.names.contains(name)
        {
            named.insert(name.clone());
        }
        if words.addresses.contains(&flow.address) {
            named.insert(flow.address.to_string());
        }
    }
    named.into_iter().collect()
}

/// The directory of the first word of the command line that is a program or a script which the run executed,
/// and is not installed: `./deploy.sh`, and in `env A=1 bash /srv/deploy.sh` too.
fn own_directory(report: &dyn Parts, directory: Option<&str>) -> Option<String> {
    let words = &report.run().command;
    let mut executed: HashSet<&str> = HashSet::new();
    // A command that was found by PATH is its first process, whatever its path is.
    let by_path = words.first().is_some_and(|word| !word.contains('/'));
    let mut first = None;
    for subject in report.subjects() {
        let program = image_script(&subject.exe, &subject.argv).unwrap_or(&subject.exe);
        if by_path && first.is_none() && subject.parent.is_none() {
            first = Some(program.to_owned());
        }
        executed.extend(
            words
                .iter()
                .find(|word| *word == program)
                .map(String::as_str),
        );
    }
    let words = words.iter().filter(|word| executed.contains(word.as_str()));
    first
        .as_ref()
        .into_iter()
        .chain(words)
        .filter(|path| !path.is_empty())
        .map(|path| absolute(path, directory))
        .find(|path| !is_installed(path))
        .map(|path| directory_of(&path).to_owned())
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No file.
    Nothing,
    /// A file, which only an interpreter can run.
    Text,
    /// A file that can be executed.
    Program,
}

/// The directory of the command's own script or program as far as its words tell, before it ran: in
/// `./deploy.sh`, and in `env A=1 bash /srv/deploy.sh` too. None if all of it is installed, or found by PATH. `directory`
/// is the one that it is started in, `at` says what is at an absolute path.
pub fn directory_of_command(
    words: &[String],
    directory: &str,
    at: &mut dyn FnMut(&str) -> Found,
) -> Option<String> {
    (0..words.len()).find_map(|start| {
        let words = &words[start..];
        let program = words.first()?;
        let (path, by_itself) = match image_script(program, words) {
            Some(script) => (script, false),
            None if program.contains('/') => (program.as_str(), true),
            None => return None,
        };
        let path = absolute(path, Some(directory));
        let runs = match at(&path) {
            Found::Program => true,
            Found::Text => !by_itself,
            Found::Nothing => false,
        };
        (runs && !is_installed(&path)).then(|| directory_of(&path).to_owned())
    })
}

fn is_installed(path: &str) -> bool {
    PROGRAMS.contains(&directory_of(path))
        || INSTALLED
            .iter()
            .any(|directory| below(path, directory).is_some())
}

/// A virtual environment has its tools where its interpreter is.
fn beside_interpreter(subject: &Subject, path: &str, directory: Option<&str>) -> bool {
    let Some(interpreter) = subject.argv.first().filter(|word| word.contains('/')) else {
        return false;
    };
    let interpreter = absolute(interpreter, directory);
    let (its, here) = (directory_of(&interpreter), directory_of(path));
    // A relative path may be the end of an absolute one.
    let same = its == here
        || !path.starts_with('/')
            && its
                .strip_suffix(here)
                .is_some_and(|rest| !here.is_empty() && rest.ends_with('/'));
    interpreter != path && same
}

/// What of a path lies below a directory; an empty directory is the one that relative paths are from.
fn below<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    match directory {
        "" => (!path.starts_with('/') && !path.starts_with("..")).then_some(path),
        "/" => path.strip_prefix('/'),
        _ => path.strip_prefix(directory)?.strip_prefix('/'),
    }
}

fn directory_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        None => "",
        Some(("", _)) => "/",
        Some((directory, _)) => directory,
    }
}
/// What is named in a run.
pub(super) struct Naming {
    words: Words,
    /// Whole words, for paths.
    texts: HashSet<String>,
}

impl Naming {
    pub(super) fn of(report: &Report) -> Self {
        let mut own: HashSet<u64> = report
            .run
            .scripts
            .iter()
            .flat_map(|script| script.subjects.iter().copied())
            .collect();
        if own.is_empty() {
            // In a report without them: as far as paths tell.
            own.extend(
                own_scripts(report, None)
                    .into_iter()
                    .flat_map(|s| s.subjects),
            );
        }
        let arguments = report
            .subjects
            .iter()
            .filter(|subject| subject.parent.is_some_and(|parent| own.contains(&parent)))
            .flat_map(|subject| &subject.argv);
        let mut naming = Self {
            words: Words::default(),
            texts: HashSet::new(),
        };
        for text in report.run.command.iter().chain(arguments) {
            naming.words.add(text);
            naming.texts.insert(text.clone());
        }
        for name in report.run.scripts.iter().flat_map(|script| &script.names) {
            naming.words.add(name);
            naming.texts.insert(name.clone());
        }
        naming
    }

    /// By the name under which it was reached, or by its address.
    pub(super) fn names(&self, name: Option<&str>, address: Option<IpAddr>) -> bool {
        name.is_some_and(|name| self.words.names.contains(name))
            || address.is_some_and(|address| self.words.addresses.contains(&address))
    }

    pub(super) fn names_path(&self, path: &str) -> bool {
        self.texts.iter().any(|text| text.contains(path))
    }
}

/// The names and addresses that stand in texts.
#[derive(Debug, Default)]
struct Words {
    names: HashSet<String>,
    addresses: HashSet<IpAddr>,
}

impl Words {
    fn of(text: &str) -> Self {
        let mut words = Self::default();
        words.add(text);
        words
    }

    fn add(&mut self, text: &str) {
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        for word in text.split(|c| !in_name(c)) {
            // `${host}.example.com` names something below, and nobody knows what.
            if word.is_empty() || word.starts_with('.') {
                continue;
            }
            let word = word.trim_end_matches('.');
            if let Ok(address) = word.parse::<IpAddr>() {
                self.addresses.insert(address);
            } else if let Ok(name) = Name::parse(word) {
                self.names.insert(name.to_string());
            }
        }
        let in_address = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
        for word in text.split(|c| !in_address(c)) {
            if word.contains(':')
                && let Ok(address) = word.trim_end_matches('.').parse::<Ipv6Addr>()
            {
                self.addresses.insert(IpAddr::V6(address).to_canonical());
            }
        }
    }
}
