//! The world in which everything is measured: a host, a real resolver and servers, each in a network
//! namespace of its own.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::client::{self, Client};
use super::pairs::Pairs;
use crate::guard;
use crate::node::Node;
use crate::world::World;

/// On the first CPU only.
const ONE_CPU: [&str; 3] = ["taskset", "-c", "0"];

/// A name that every round asks for.
pub(super) const KNOWN: &str = "www.bench.example";
/// Below it lie names that were never asked for, each with an address of its own.
pub(super) const FRESH: &str = "fresh.example";
/// How many of them.
const FRESH_NAMES: u32 = 10_000;
/// A name that policies deny.
pub(super) const DENIED: &str = "denied.example";
/// A name that does not exist.
pub(super) const ABSENT: &str = "absent.example";

/// Accepts and closes.
pub(super) const CLOSES: u16 = 8000;
/// Accepts and reads to the end.
pub(super) const READS: u16 = 8001;
/// The same, at a port that is inspected as a rule.
pub(super) const READS_REQUESTS: u16 = 80;

/// Serves pages on connections that stay, at a port that is inspected as a rule.
pub(super) const PAGES: u16 = 8080;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// All of it.
    Full,
    /// A small part, to see that the suite works; the figures mean nothing.
    Quick,
}

/// The policies under which is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// None: observe.
    None,
    /// A live deploy: enforce, `default: allow`, a thousand denied names.
    Live,
    /// A rehearsal: enforce, `default: deny`, a thousand allowed names.
    Rehearsal,
}

impl Rules {
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Live, Self::Rehearsal];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "observe, no policy",
            Self::Live => "enforce, default: allow, 1,000 rules",
            Self::Rehearsal => "enforce, default: deny, 1,000 rules",
        }
    }

    pub(super) fn text(self) -> Option<String> {
        let mut text = match self {
            Self::None => return None,
            Self::Live => {
                format!("mode: enforce\ndefault: allow\nrules:\n  - deny: {DENIED}\n")
            }
            Self::Rehearsal => format!(
                "mode: enforce\ndefault: deny\nrules:\n  - allow: .bench.example\n  - allow: '*.{FRESH}'\n"
            ),
        };
        let effect = if self == Self::Live { "deny" } else { "allow" };
        for i in 0..1000 {
            let _ = writeln!(text, "  - {effect}: .service-{i}.example.net");
        }
        Some(text)
    }
}

/// The world, its servers, and the client.
pub struct Scene {
    world: World,
    web: Node,
    resolver: Node,
    client: String,
    scale: Scale,
}

impl Scene {
    /// Build the world and start what serves in it.
    pub fn new(scale: Scale) -> Self {
        let world = World::new("bench");
        let client = client::build(world.dir());
        let (web, resolver) = (world.node("web"), world.node("resolver"));
        world.resolv_conf(&format!("nameserver {}\n", resolver.v4()));
        // Every address of these networks is the web machine's.
        let (host, far) = (namespace(world.host()), namespace(&web));
        let gateway = web.v4().to_string();
        for network in ["10.88.0.0/16", "198.18.0.0/15"] {
            ip(&["-n", &host, "route", "add", network, "via", &gateway]);
            ip(&["-n", &far, "route", "add", "local", network, "dev", "lo"]);
        }
        let port = CLOSES.to_string();
        web.serve(CLOSES, &[&ONE_CPU[..], &[&client, "close", &port]].concat());
        web.serve(PAGES, &[&client, "pages", &PAGES.to_string()]);
        for port in [READS, READS_REQUESTS] {
            web.serve(port, &[&client, "sink", &port.to_string()]);
        }
        let settings = world.file("unbound.conf", &unbound(&resolver, &web));
        resolver.serve(
            53,
            &[
                &ONE_CPU[..],
                &["unbound", "-d", "-c", &settings.display().to_string()],
            ]
            .concat(),
        );
        Self {
            world,
            web,
            resolver,
            client,
            scale,
        }
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The compiled client.
    pub(super) fn client(&self) -> &str {
        &self.client
    }

    pub(super) fn web(&self) -> Ipv4Addr {
        self.web.v4()
    }

    pub(super) fn resolver(&self) -> Ipv4Addr {
        self.resolver.v4()
    }

    /// `full` of something, or the few that show that it works.
    pub(super) fn count(&self, full: usize) -> usize {
        match self.scale {
            Scale::Full => full,
            Scale::Quick => (full / 20).max(2),
        }
    }

    /// A client without a guard.
    pub(super) fn bare(&self) -> Client {
        Client::start(self.world.host().command(&[&self.client]), None)
    }

    /// The same on the CPU of the servers that it talks to. Where the scheduler puts either decides more about
    /// the time of one exchange than any guard: 20 µs on one CPU, 90 on two, for as long as both live.
    pub(super) fn bare_beside(&self) -> Client {
        let line = [&ONE_CPU[..], &[&self.client]].concat();
        Client::start(self.world.host().command(&line), None)
    }

    /// A client under guard.
    pub(super) fn guarded(&self, rules: Rules) -> Client {
        self.guarded_by(rules.text().as_deref())
    }

    /// The same on the CPU of the servers that it talks to.
    pub(super) fn guarded_beside(&self, rules: Rules) -> Client {
        self.start_guarded(rules.text().as_deref(), &ONE_CPU)
    }

    /// A client under guard with this policy.
    pub(super) fn guarded_by(&self, policy: Option<&str>) -> Client {
        self.start_guarded(policy, &[])
    }

    fn start_guarded(&self, policy: Option<&str>, on: &[&str]) -> Client {
        let mut guard = self.world.guard().arg("--quiet");
        if let Some(policy) = policy {
            guard = guard.policy(policy);
        }
        let mut line = guard.line();
        let report = line
            .iter()
            .skip_while(|word| *word != "--report")
            .nth(1)
            .expect("the lab asks for a report")
            .into();
        line.extend(on.iter().map(|&word| word.to_owned()));
        line.push(self.client.clone());
        let mut command = self.world.host().command(&line);
        command.env("BLACKSTART_STATE", guard.state());
        Client::start(command, Some(report))
    }

    /// A command as a user types it on the host, with the state directory of this world.
    pub(super) fn typed(&self, line: &[&str]) -> Command {
        let mut command = self.world.host().command(line);
        command.env("BLACKSTART_STATE", guard::state(&self.world));
        command
    }

    /// Milliseconds of a command as a user types it, and of `true`, in turn: the difference is what the command
    /// does beyond being started.
    pub(super) fn beside_true(&self, line: &[&str], full: usize) -> Pairs {
        let pair = |_| (self.took(line), self.took(&["true"]));
        Pairs((0..self.count(full)).map(pair).collect())
    }

    fn took(&self, line: &[&str]) -> f64 {
        let mut command = self.typed(line);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let status = command.status().expect("start nsenter");
        let took = began.elapsed();
        assert!(status.success(), "{line:?} ended with {status}");
        took.as_secs_f64() * 1000.0
    }
}

/// A resolver that knows all names by heart: what it is asked does not depend on the network.
fn unbound(resolver: &Node, web: &Node) -> String {
    let mut text = format!(
        "server:\n  interface: {}\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         do-daemonize: no\n  num-threads: 1\n  module-config: \"iterator\"\n  access-control: 0.0.0.0/0 allow\n  \
         local-zone: \".\" static\n",
        resolver.v4()
    );
    for name in [KNOWN, DENIED] {
        let _ = writeln!(text, "  local-data: \"{name}. 60 IN A {}\"", web.v4());
    }
    for i in 0..FRESH_NAMES {
        let _ = writeln!(
            text,
            "  local-data: \"n{i}.{FRESH}. 60 IN A 10.88.{}.{}\"",
            i / 250,
            i % 250 + 1
        );
    }
    text + "remote-control:\n  control-enable: no\n"
}

fn namespace(node: &Node) -> String {
    let path = node.namespace();
    path.file_name()
        .expect("a namespace has a name")
        .to_string_lossy()
        .into_owned()
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip")
        .args(arguments)
        .status()
        .expect("run ip (package iproute2)");
    assert!(status.success(), "ip {} failed", arguments.join(" "));
}
