//! A world: a switch, a host with a name service, and the servers around it.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::child::{Ended, Running};
use crate::container::Podman;
use crate::dns::{Dns, Zone};
use crate::guard::{self, Guard};
use crate::node::Node;
use crate::program;
use crate::systemd::{self, Bus, Cgroups};
use crate::web::Authority;

/// Where each world leaves its marker: a file that is locked as long as the world's process lives.
const MARKERS: &str = "/run/blackstart-lab";
/// What the names of our namespaces begin with.
const PREFIX: &str = "bsl";
/// The switch's namespace within a world.
const SWITCH: &str = "switch";
/// Where the name server stands in every world.
const DNS_NUMBER: u16 = 53;
/// Until a stub answers.
const STUB_PATIENCE: Duration = Duration::from_secs(20);

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A world of network namespaces around one host.
///
/// All worlds use the same addresses, since none can see another: `10.77.0.N` and `fd77::N`.
pub struct World {
    id: String,
    // Fields drop in order: servers first, then the directory, and the marker last, so that a world
    // that is killed while it is being taken down is still found by the sweep.
    nodes: RefCell<Vec<Node>>,
    next: Cell<u16>,
    runtime: Option<Runtime>,
    authority: RefCell<Option<Authority>>,
    dir: TempDir,
    host: Option<Node>,
    keep: bool,
    marker: Marker,
}

/// The locked file that says "this world lives".
struct Marker {
    path: PathBuf,
    _lock: File,
}

impl World {
    /// Build a world for the test of this name. Fails loudly without root: a lab that skips proves nothing.
    pub fn new(test: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the lab needs root (network namespaces, BPF): run it as root, for example with `sudo make test`"
        );
        sweep();
        let short: String = test
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(12)
            .collect();
        let id = format!(
            "{PREFIX}{}-{}-{short}",
            std::process::id(),
            WORLDS.fetch_add(1, Ordering::Relaxed)
        );
        let marker = Marker::new(&id);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("start the servers' runtime");
        let mut world = Self {
            nodes: RefCell::default(),
            next: Cell::new(10),
            runtime: Some(runtime),
            authority: RefCell::default(),
            dir: tempfile::Builder::new()
                .prefix(&format!("{id}-"))
                .tempdir()
                .expect("make the world's directory"),
            host: None,
            keep: false,
            marker,
            id,
        };
        world.lay_switch();
        world.write_files();
        let host = world.join("host", 1);
        host.furnish(&world.files(), true);
        world.host = Some(host);
        world
    }

    /// The host on which commands run.
    pub fn host(&self) -> &Node {
        self.host
            .as_ref()
            .expect("a world has its host from the start")
    }

    /// Another machine on the switch.
    pub fn node(&self, name: &str) -> Node {
        let number = self.next.get();
        self.next.set(number + 1);
        let node = self.join(name, number);
        node.furnish(&self.files(), false);
        node
    }

    /// Start the name server with these names; the host's `/etc/resolv.conf` points to it.
    pub fn dns(&self, zone: Zone) -> Dns {
        let node = self.join("dns", DNS_NUMBER);
        self.resolv_conf(&format!("nameserver {}\n", node.v4()));
        Dns::start(&node, zone)
    }

    /// Start a stub at 127.0.0.53 that asks this name server, have the host ask it, and wait until it answers for `name`.
    pub fn stub(&self, dns: &Dns, name: &str) -> Running {
        let upstream = format!("--server={}", dns.address());
        let stub = self.start(&[
            "dnsmasq",
            "--no-daemon",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file=",
            "--no-hosts",
            "--no-resolv",
            "--bind-interfaces",
            "--listen-address=127.0.0.53",
            &upstream,
        ]);
        self.resolv_conf("nameserver 127.0.0.53\n");
        let began = Instant::now();
        while self.run(&["getent", "hosts", name]).code != 0 {
            assert!(began.elapsed() < STUB_PATIENCE, "the stub does not answer");
        }
        stub
    }

    /// Make the name server's machine without a server, for a test that brings a crooked one.
    pub fn bare_dns_node(&self) -> Node {
        let node = self.join("dns", DNS_NUMBER);
        self.resolv_conf(&format!("nameserver {}\n", node.v4()));
        node
    }

    /// What `/etc/resolv.conf` says on every machine of this world, from now on.
    pub fn resolv_conf(&self, text: &str) {
        // Written in place: the file is bind-mounted, a new inode would not be seen.
        fs::write(self.dir().join("etc/resolv.conf"), text).expect("write resolv.conf");
    }

    /// Add a line to `/etc/hosts` on every machine of this world.
    pub fn hosts_line(&self, line: &str) {
        use std::io::Write as _;
        let mut file = File::options()
            .append(true)
            .open(self.dir().join("etc/hosts"))
            .expect("open the hosts file");
        writeln!(file, "{line}").expect("write the hosts file");
    }

    /// With two servers of HTTP: `github.com`, which tests deny, and `mirror.internal`, which they allow.
    pub fn with_names(name: &str) -> (Self, Node, Node) {
        let world = Self::new(name);
        let (github, mirror) = (world.node("github"), world.node("mirror"));
        github.http();
        mirror.http();
        world.dns(
            Zone::new()
                .host("github.com", &github)
                .host("mirror.internal", &mirror),
        );
        (world, github, mirror)
    }

    /// With one server of HTTP that answers to all of these names.
    pub fn with_web(name: &str, names: &[&str]) -> (Self, Node) {
        let world = Self::new(name);
        let web = world.node("github");
        web.http();
        let zone = Zone::new();
        world.dns(names.iter().fold(zone, |zone, name| zone.host(name, &web)));
        (world, web)
    }

    /// A private directory of this world, the same path inside and outside.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Write a file below the world's directory and make it executable if it begins with `#!`.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().expect("a file has a directory"))
            .expect("make the file's directory");
        if text.starts_with("#!") {
            program::write(&path, text);
        } else {
            fs::write(&path, text).expect("write a file");
        }
        path
    }

    /// A policy in a file of the world's directory: `text` is what follows `apiVersion` and `kind`.
    pub fn policy(&self, name: &str, text: &str) -> String {
        let text = format!("apiVersion: blackstart.dev/v1\nkind: Policy\n{text}");
        self.file(name, &text).display().to_string()
    }

    /// The certificate authority that clients of this world trust (through their usual environment variables).
    pub fn authority(&self) -> Authority {
        self.authority
            .borrow_mut()
            .get_or_insert_with(|| {
                let authority = Authority::new();
                fs::write(self.dir().join("etc/ca.pem"), authority.pem())
                    .expect("write the authority's certificate");
                authority
            })
            .clone()
    }

    /// Run a command on the host, without the guard, to its end.
    pub fn run<S: AsRef<str>>(&self, command: &[S]) -> Ended {
        self.host().start(command).wait()
    }

    /// Start a command on the host, without the guard.
    pub fn start<S: AsRef<str>>(&self, command: &[S]) -> Running {
        self.host().start(command)
    }

    /// A cgroup of this world's own, removed with it.
    pub fn cgroup(&self, name: &str) -> PathBuf {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read the list of mounts");
        let top = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let at = words.next()?;
            (words.next()? == "cgroup2").then_some(at)
        });
        let path = Path::new(top.expect("cgroup2 is mounted"))
            .join(self.id())
            .join(name);
        fs::create_dir_all(&path).expect("make a cgroup");
        path
    }

    /// Start a command on the host, without the guard, in a cgroup.
    pub fn start_in<S: AsRef<str>>(&self, cgroup: &Path, command: &[S]) -> Running {
        self.start_in_on(self.host(), cgroup, command)
    }

    /// The same on another machine.
    pub fn start_in_on<S: AsRef<str>>(&self, node: &Node, cgroup: &Path, command: &[S]) -> Running {
        let enter = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", cgroup.display());
        let mut line = vec!["sh".to_owned(), "-ec".to_owned(), enter, "sh".to_owned()];
        line.extend(command.iter().map(|word| word.as_ref().to_owned()));
        node.start(&line)
    }

    /// A guarded run on the host, to be described and then run.
    pub fn guard(&self) -> Guard<'_> {
        Guard::new(self)
    }

    /// Containers on the host.
    pub fn podman(&self) -> Podman<'_> {
        Podman::new(self)
    }

    /// A unit of the machine that [`Self::boot`] starts. In its text, DIR is the world's directory, KEPT the state of its
    /// runs, BLACKSTART the binary, and UNIT its own name.
    pub fn unit(&self, name: &str, text: &str) {
        systemd::unit(self, name, text);
    }

    /// Start the host anew with systemd as PID 1, run a script there, and shut it down. In the script, DIR, KEPT and
    /// BLACKSTART are as in a unit's text.
    pub fn boot(&self, cgroups: Cgroups, bus: Bus, script: &str) -> Ended {
        systemd::boot(self, cgroups, bus, script)
    }

    /// Its name among all worlds of this machine; also that of the cgroup that holds what the world starts in
    /// cgroups of its own.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The cgroups of a run, wherever they are.
    pub fn cgroups_of(&self, run: &str) -> Vec<PathBuf> {
        cgroups_named(run)
    }

    /// What is left of runs in this world: pins, cgroups, unfinished state. Empty if all is clean.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let mut left = self.host().pins();
        let runs = guard::state(self).join("runs");
        for run in fs::read_dir(runs).into_iter().flatten().flatten() {
            left.extend(Some(run.path().join("lock")).filter(|lock| lock.exists()));
            left.extend(cgroups_named(&run.file_name().to_string_lossy()));
        }
        left
    }

    /// Leave the namespaces where they are when this world is dropped (the next world sweeps them).
    pub fn keep(&mut self) {
        self.keep = true;
    }

    fn lay_switch(&self) {
        let switch = self.namespace(SWITCH);
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
    }

    fn write_files(&self) {
        let etc = self.dir().join("etc");
        fs::create_dir_all(&etc).expect("make the world's etc");
        fs::create_dir_all(self.dir().join("home")).expect("make the world's home");
        fs::write(etc.join("resolv.conf"), "").expect("write resolv.conf");
        fs::write(etc.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n").expect("write hosts");
        fs::write(
            etc.join("nsswitch.conf"),
            "passwd: files\ngroup: files\nhosts: files dns\n",
        )
        .expect("write nsswitch.conf");
    }

    fn files(&self) -> PathBuf {
        self.dir().join("etc")
    }

    fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.id)
    }

    fn join(&self, name: &str, number: u16) -> Node {
        let (switch, namespace) = (self.namespace(SWITCH), self.namespace(name));
        let port = format!("p{number}");
        ip(&["netns", "add", &namespace]);
        ip(&[
            "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &namespace,
        ]);
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
        let handle = self
            .runtime
            .as_ref()
            .expect("the runtime lives as long as the world")
            .handle()
            .clone();
        let node = Node::new(name, &namespace, number, handle, self.dir().to_owned());
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        // nodad: the address can be used at once, instead of after a second of duplicate detection.
        ip(&[
            "-n",
            &namespace,
            "addr",
            "add",
            &format!("{}/24", node.v4()),
            "dev",
            "eth0",
        ]);
        ip(&[
            "-n",
            &namespace,
            "addr",
            "add",
            &format!("{}/64", node.v6()),
            "dev",
            "eth0",
            "nodad",
        ]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        self.nodes.borrow_mut().push(node.clone());
        node
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.host = None;
        for node in self.nodes.borrow_mut().drain(..).rev() {
            node.stop();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
        remove_namespaces(&self.id);
        remove_cgroups(&self.id, self.dir());
        let _ = fs::remove_file(&self.marker.path);
    }
}

impl Marker {
    fn new(id: &str) -> Self {
        fs::create_dir_all(MARKERS).expect("make the lab's directory below /run");
        let path = Path::new(MARKERS).join(id);
        // Locked before it has the name that a sweep looks at.
        let unborn = Path::new(MARKERS).join(format!(".{id}"));
        let lock = File::create(&unborn).expect("make the world's marker");
        lock.lock().expect("lock the world's marker");
        fs::rename(&unborn, &path).expect("name the world's marker");
        Self { path, _lock: lock }
    }
}

/// Take down every world whose process is gone.
fn sweep() {
    let Ok(markers) = fs::read_dir(MARKERS) else {
        return;
    };
    for marker in markers.flatten() {
        let Ok(file) = File::open(marker.path()) else {
            continue;
        };
        if file.try_lock().is_err() {
            continue;
        }
        let id = marker.file_name().to_string_lossy().into_owned();
        if id.starts_with('.') {
            continue;
        }
        remove_namespaces(&id);
        for dir in fs::read_dir(std::env::temp_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            if dir
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("{id}-"))
            {
                remove_cgroups(&id, &dir.path());
                let _ = fs::remove_dir_all(dir.path());
            }
        }
        let _ = fs::remove_file(marker.path());
    }
}

/// Kill whatever still runs in the world's namespaces, then remove them.
fn remove_namespaces(id: &str) {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(&format!("{id}-")) {
            continue;
        }
        let found = Command::new("ip").args(["netns", "pids", &name]).output();
        for pid in found.iter().flat_map(|found| {
            String::from_utf8_lossy(&found.stdout)
                .into_owned()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        }) {
            if let Some(pid) = pid
                .trim()
                .parse()
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
    }
}

/// Remove the world's own cgroup, and those of the runs that have their state below `dir`. A sound run leaves none.
fn remove_cgroups(id: &str, dir: &Path) {
    remove_cgroup(id);
    for run in fs::read_dir(dir.join("state/runs"))
        .into_iter()
        .flatten()
        .flatten()
    {
        remove_cgroup(&run.file_name().to_string_lossy());
    }
}

fn remove_cgroup(name: &str) {
    for cgroup in cgroups_named(name) {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        // Deepest first, and more than once: the killed need a moment to go.
        for _ in 0..50 {
            for below in directories(&cgroup).into_iter().rev() {
                let _ = fs::remove_dir(below);
            }
            if fs::remove_dir(&cgroup).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The cgroups of this name, wherever they are.
fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the list of mounts");
    // Those of the first version too: limits are there on a hybrid host.
    let roots = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let at = words.next()?;
        ["cgroup", "cgroup2"].contains(&words.next()?).then_some(at)
    });
    roots
        .flat_map(|root| directories(Path::new(root)))
        .filter(|dir| dir.file_name().is_some_and(|file| file == name))
        .collect()
}

/// Every directory below `dir`, a directory before those below it.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(directories(&entry.path()));
        }
    }
    found
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("run ip (package iproute2)");
    assert!(
        output.status.success(),
        "ip {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
}
