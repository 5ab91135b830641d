//! Cgroups by the names that people have for them: units of systemd, and containers. No daemon is asked where the tree
//! itself tells.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::below;
use super::hierarchy::Hierarchy;
use super::target::refused;
use crate::refusal::Refusal;

/// How long systemd may take to say where a unit is; then the tree is searched.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shorter than this, a beginning of an id is more likely a name.
const PREFIX: usize = 4;

/// Where docker keeps what it knows of containers.
const DOCKER: &str = "/var/lib/docker/containers";
/// Where podman, CRI-O and buildah do, those without a life beyond the boot in the second.
const STORES: [&str; 2] = ["/var/lib/containers/storage", "/run/containers/storage"];
/// Where containerd keeps the bundles of what runs: a directory for each namespace, in it one for each id. An id is what
/// somebody gave (`ctr run IMAGE redis1`); nerdctl and Kubernetes give 64 hex digits.
const CONTAINERD: &str = "/run/containerd/io.containerd.runtime.v2.task";
/// Under which nerdctl writes the name of a container into its bundle.
const NERDCTL_NAME: &str = "nerdctl/name";
/// A file there that is larger is not read.
const MOST: u64 = 64 << 20;

/// What systemd says of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    load: String,
    active: String,
    cgroup: String,
}

/// The cgroup of a unit, below the mount.
pub(super) fn unit(hierarchy: &Hierarchy, name: &str) -> Result<PathBuf, Refusal> {
    let name = with_kind(name);
    if name.contains('/') {
        return Err(refused(
            format!("{name:?} is no name of a unit"),
            "it has a `/` in it",
            "name a unit, such as mysql.service, or a cgroup with --cgroup",
        ));
    }
    if let Some(told) = ask(&name) {
        if told.load == "not-found" {
            return Err(refused(
                format!("systemd knows no unit {name}"),
                "no file of that name is loaded",
                "`systemctl list-units` shows what there is",
            ));
        }
        if told.cgroup.is_empty() {
            return Err(refused(
                format!("the unit {name} has no cgroup"),
                format!("it is {}", told.active),
                format!("start it (`systemctl start {name}`), or attach once it runs"),
            ));
        }
        let path = hierarchy.below(Path::new(&told.cgroup));
        if hierarchy.at(&path).is_dir() {
            return Ok(path);
        }
        return Err(refused(
            format!("the unit {name} has no cgroup in cgroup2"),
            format!(
                "systemd keeps it at {} of the first version only",
                told.cgroup
            ),
            "boot with systemd.unified_cgroup_hierarchy=1, or name a process with --pid",
        ));
    }
    let found = search(hierarchy, |file| file == name);
    one(&format!("unit {name}"), found)
}

/// systemctl takes a name without a kind for a service.
fn with_kind(name: &str) -> String {
    const KINDS: [&str; 11] = [
        "automount",
        "device",
        "mount",
        "path",
        "scope",
        "service",
        "slice",
        "socket",
        "swap",
        "target",
        "timer",
    ];
    let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
    if KINDS.contains(&kind) {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// Ask systemd, where it is PID 1; none if it does not say.
fn ask(unit: &str) -> Option<Told> {
    // As sd_booted(3) has it.
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let deadline = Instant::now() + PATIENCE;
    let mut child = Command::new("systemctl")
        .args([
            "show",
            "--property=LoadState,ActiveState,ControlGroup",
            "--",
        ])
        .arg(unit)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    let mut text = String::new();
    // Three short lines, which the pipe held.
    child.stdout?.read_to_string(&mut text).ok()?;
    told(&text)
}

fn told(text: &str) -> Option<Told> {
    let of = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
    };
    Some(Told {
        load: of("LoadState")?,
        active: of("ActiveState")?,
        cgroup: of("ControlGroup")?,
    })
}

/// The cgroup of a container, below the mount.
pub(super) fn container(hierarchy: &Hierarchy, typed: &str) -> Result<PathBuf, Refusal> {
    let what = format!("container {typed}");
    let by_id = |wanted: &str| {
        search(hierarchy, |file| {
            id_of(file).is_some_and(|id| id.starts_with(wanted))
        })
    };
    let is_id = typed.len() >= PREFIX && typed.bytes().all(|octet| octet.is_ascii_hexdigit());
    if is_id {
        let found = by_id(&typed.to_ascii_lowercase());
        if !found.is_empty() {
            return one(&what, found);
        }
    }
    let ids: Vec<String> = names()
        .into_iter()
        .filter(|(_, name)| name == typed)
        .map(|(id, _)| id)
        .collect();
    let mut found: Vec<PathBuf> = ids.iter().flat_map(|id| by_id(id)).collect();
    let bundles = bundles(Path::new(CONTAINERD));
    let meant: Vec<_> = bundles.iter().filter(|it| it.is_called(typed)).collect();
    for bundle in &meant {
        for path in bundle.cgroups(hierarchy) {
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    let known = ids.first().or(meant.first().map(|bundle| &bundle.id));
    if let (Some(id), true) = (known, found.is_empty()) {
        return Err(refused(
            format!("the {what} does not run"),
            format!("no cgroup is that of {id}"),
            "start it, or attach once it runs",
        ));
    }
    one(&what, found)
}

/// A container of containerd's, as its bundle tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Bundle {
    id: String,
    /// What nerdctl calls it.
    name: Option<String>,
    /// As the runtime is told it: a path, or `SLICE:PREFIX:NAME` where systemd makes it.
    cgroup: String,
}

impl Bundle {
    fn is_called(&self, typed: &str) -> bool {
        self.id == typed || self.name.as_deref() == Some(typed)
    }

    /// Where its cgroup is, below the mount; nowhere if it does not run.
    fn cgroups(&self, hierarchy: &Hierarchy) -> Vec<PathBuf> {
        match self.cgroup.split(':').collect::<Vec<_>>()[..] {
            [_, "", name] => search(hierarchy, |file| file.strip_suffix(".scope") == Some(name)),
            [_, prefix, name] => {
                let scope = format!("{prefix}-{name}.scope");
                search(hierarchy, |file| file == scope)
            }
            _ => {
                let path = Path::new("/").join(&self.cgroup);
                let path = hierarchy.below(&path);
                let is_there = path != Path::new("") && hierarchy.at(&path).is_dir();
                is_there.then_some(path).into_iter().collect()
            }
        }
    }
}

/// Those of all namespaces.
fn bundles(top: &Path) -> Vec<Bundle> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries(top)
        .flat_map(|namespace| entries(&namespace.path()))
        .filter_map(|dir| {
            let id = dir.file_name().into_string().ok()?;
            of_bundle(id, &read(&dir.path().join("config.json")))
        })
        .collect();
    found.sort_unstable_by(|a, b| (&a.id, &a.cgroup).cmp(&(&b.id, &b.cgroup)));
    found
}

/// By the part of a runtime's configuration that is of use here.
fn of_bundle(id: String, text: &str) -> Option<Bundle> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
        linux: Linux,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(rename = "cgroupsPath")]
        cgroups_path: String,
    }
    let mut config: Config = serde_json::from_str(text).ok()?;
    Some(Bundle {
        id,
        name: config.annotations.remove(NERDCTL_NAME),
        cgroup: config.linux.cgroups_path,
    })
}

/// The id of the container whose cgroup has this name: `docker-ID.scope`, `libpod-ID`, `cri-containerd-ID.scope`, `ID`.
fn id_of(file: &str) -> Option<&str> {
    let name = file.strip_suffix(".scope").unwrap_or(file);
    let id = name.rsplit(['-', ':']).next()?;
    let is_id = id.len() == 64
        && id
            .bytes()
            .all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'));
    // What looks after a container is not in it.
    (is_id && !name.contains("conmon")).then_some(id)
}

/// Ids and names of containers, as far as their keepers' files can be read.
fn names() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for container in entries(Path::new(DOCKER)) {
        found.extend(of_docker(&read(&container.path().join("config.v2.json"))));
    }
    for dir in STORES.iter().flat_map(|store| entries(Path::new(store))) {
        if dir.file_name().to_string_lossy().ends_with("-containers") {
            for file in ["containers.json", "volatile-containers.json"] {
                found.extend(of_store(&read(&dir.path().join(file))));
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    let small = fs::metadata(path).is_ok_and(|of| of.is_file() && of.len() <= MOST);
    let text = small.then(|| fs::read_to_string(path).ok()).flatten();
    text.unwrap_or_default()
}

fn of_docker(text: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Container {
        #[serde(rename = "ID")]
        id: String,
        #[serde(rename = "Name")]
        name: String,
    }
    let found: Container = serde_json::from_str(text).ok()?;
    Some((found.id, found.name.trim_start_matches('/').to_owned()))
}

fn of_store(text: &str) -> Vec<(String, String)> {
    #[derive(Deserialize)]
    struct Container {
        id: String,
        #[serde(default)]
        names: Vec<String>,
    }
    let found: Vec<Container> = serde_json::from_str(text).unwrap_or_default();
    found
        .into_iter()
        .flat_map(|of| of.names.into_iter().map(move |name| (of.id.clone(), name)))
        .collect()
}

/// Cgroups whose directory's name is meant, below the mount; of one in another the outer.
fn search(hierarchy: &Hierarchy, meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let top = hierarchy.at(Path::new(""));
    let mut found = BTreeMap::new();
    // A directory comes before those below it.
    for dir in below::tree(&top) {
        let named = dir.file_name().and_then(|name| name.to_str());
        let Some(path) = named
            .filter(|name| meant(name))
            .and_then(|_| dir.strip_prefix(&top).ok())
        else {
            continue;
        };
        if !path.ancestors().any(|outer| found.contains_key(outer)) {
            found.insert(path.to_owned(), ());
        }
    }
    found.into_keys().collect()
}

fn one(what: &str, found: Vec<PathBuf>) -> Result<PathBuf, Refusal> {
    match &found[..] {
        [path] => Ok(path.clone()),
        [] => Err(refused(
            format!("no cgroup is that of the {what}"),
            "it does not run, or goes by another name",
            "see that it runs, or name its cgroup with --cgroup or one of its processes with --pid",
        )),
        several => {
            let paths = several.iter().map(|path| format!("/{}", path.display()));
            let paths: Vec<_> = paths.collect();
            Err(refused(
                format!("{} cgroups may be that of the {what}", several.len()),
                paths.join(", "),
                "name one with --cgroup",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_container_is_known_by_the_name_of_its_cgroup() {
        for name in [
            format!("docker-{ID}.scope"),
            format!("libpod-{ID}"),
            format!("libpod-{ID}.scope"),
            format!("cri-containerd-{ID}.scope"),
            format!("crio-{ID}"),
            ID.to_owned(),
        ] {
            assert_eq!(id_of(&name), Some(ID), "{name}");
        }
        for name in [
            format!("libpod-conmon-{ID}.scope"),
            format!("crio-conmon-{ID}"),
            "ssh.service".to_owned(),
            ID[1..].to_owned(),
        ] {
            assert_eq!(id_of(&name), None, "{name}");
        }
    }

    #[test]
    fn names_of_containers_stand_in_their_keepers_files() {
        let docker = format!("{{\"ID\": \"{ID}\", \"Name\": \"/db\", \"State\": {{}}}}");
        assert_eq!(of_docker(&docker), Some((ID.to_owned(), "db".to_owned())));
        assert_eq!(of_docker("{"), None);
        let store = format!(
            "[{{\"id\": \"{ID}\", \"names\": [\"web\", \"w\"], \"layer\": \"x\"}}, {{\"id\": \"1\"}}]"
        );
        let both = ["web", "w"].map(|name| (ID.to_owned(), name.to_owned()));
        assert_eq!(of_store(&store), both);
        assert_eq!(of_store("null"), []);
    }

    #[test]
    fn a_container_of_containerd_is_known_by_its_id_or_its_name() {
        let top = tempfile::tempdir().unwrap();
        let write = |of: &str, text: &str| {
            let dir = top.path().join(of);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("config.json"), text).unwrap();
        };
        write(
            "default/redis1",
            r#"{"ociVersion": "1.1", "linux": {"cgroupsPath": "/default/redis1"}}"#,
        );
        let nerdctl = format!(
            r#"{{"annotations": {{"nerdctl/name": "db", "x": "y"}}, "linux": {{"cgroupsPath": "system.slice:nerdctl:{ID}"}}}}"#
        );
        write(&format!("other/{ID}"), &nerdctl);
        write("default/torn", "{");
        write("default/windows", "{}");
        let found = bundles(top.path());
        let of = |id: &str, name: Option<&str>, cgroup: &str| Bundle {
            id: id.to_owned(),
            name: name.map(str::to_owned),
            cgroup: cgroup.to_owned(),
        };
        assert_eq!(
            found,
            [
                of(ID, Some("db"), &format!("system.slice:nerdctl:{ID}")),
                of("redis1", None, "/default/redis1"),
            ]
        );
        assert!(found[1].is_called("redis1") && !found[1].is_called("redis"));
        assert!(found[0].is_called("db") && found[0].is_called(ID));
        assert!(bundles(Path::new("/no/such/directory")).is_empty());
    }

    #[test]
    fn systemd_says_where_a_unit_is() {
        let text = "ControlGroup=/system.slice/a.service\nLoadState=loaded\nActiveState=active\n";
        let found = told(text).unwrap();
        assert_eq!(found.cgroup, "/system.slice/a.service");
        assert_eq!(told("LoadState=loaded\n"), None);
        assert_eq!(with_kind("mysql"), "mysql.service");
        assert_eq!(with_kind("a.scope"), "a.scope");
        assert_eq!(with_kind("org.a.b@1"), "org.a.b@1.service");
    }
}
