//! Tools that speak protocols of their own, at ports of their own: rsync, ssh, and git by ssh. The servers are the real ones.

use std::fs;

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::node::git_repository;
use blackstart_lab::{Guarded, Node, World, Zone, case};

/// An enforced allow-list of this one place.
fn only(place: &str) -> String {
    format!("mode: enforce\ndefault: deny\nrules:\n  - allow: {place}\n")
}

/// Both policies under which this name is refused, or only a port of it.
fn refusing(name: &str, port: Option<u16>) -> [String; 2] {
    let deny = match port {
        Some(port) => format!("  - allow: {name}\n  - deny: {name}:{port}\n"),
        None => format!("  - deny: {name}\n"),
    };
    ["", "default: deny\n"]
        .map(|default| format!("mode: enforce\n{default}rules:\n{deny}    reason: it is down\n"))
}

/// The one flow to the server: its verdict, its outcome, and who made it.
#[track_caller]
fn flow(run: &Guarded, server: &Node, port: u16, verdict: Verdict, tool: &str) {
    let flow = run.flow(server.v4(), port);
    let outcome = match verdict {
        Verdict::Deny => Outcome::Refused,
        _ => Outcome::Connected,
    };
    assert_eq!((flow.verdict, flow.outcome), (verdict, outcome), "{flow:?}");
    let chain = run.chain(flow.subject);
    assert!(chain[0].starts_with(tool), "{chain:?}");
}

/// The one refusal that was found is of this, and was this process's.
#[track_caller]
fn found(run: &Guarded, title: &str, tool: &str) {
    let found = run.findings("denied_dependency");
    let [one] = found[..] else {
        panic!("one refusal: {found:#?}");
    };
    assert_eq!(one.title, title);
    assert_eq!(one.reason.as_deref(), Some("it is down"));
    let chain = run.chain(one.subjects.first().copied());
    assert!(chain[0].starts_with(tool), "{chain:?}");
    assert_eq!(one.command.as_ref().unwrap().join(" "), chain[0]);
}

/// Its only address is of IPv4, so that there is one way to it.
fn with_server(test: &str, name: &str) -> (World, Node) {
    let world = World::new(test);
    let server = world.node("server");
    world.dns(Zone::new().a(name, server.v4()));
    (world, server)
}

#[test]
fn rsync_from_its_own_daemon() {
    let shown = case!(31, "rsync");
    let by_name = case!(31, "rsync, by a rule about its name");
    let by_port = case!(31, "rsync, by a rule about its port");
    let (world, server) = with_server("rsync", "files.internal");
    world.file("shared/tool", "a tool\n");
    let config = format!(
        "use chroot = no\nuid = 0\ngid = 0\nlog file = /dev/null\n[shared]\npath = {}\nread only = yes\n",
        world.dir().join("shared").display()
    );
    let config = world.file("rsyncd.conf", &config).display().to_string();
    let config = format!("--config={config}");
    server.serve(873, &["rsync", "--daemon", "--no-detach", &config]);
    let fetch = |to: &str| ["rsync", "rsync://files.internal/shared/tool", to].map(str::to_owned);
    let got = |to: &str| fs::read_to_string(world.dir().join(to)).ok();
    let bare = world.run(&fetch("bare"));
    for shown in [&shown, &by_name, &by_port] {
        shown.outside(&bare);
    }
    assert_eq!(got("bare").as_deref(), Some("a tool\n"));
    let allowed = ["rules: []\n".to_owned(), only("files.internal:873")];
    for (turn, policy) in allowed.iter().enumerate() {
        let to = format!("allowed{turn}");
        let run = world.guard().policy(policy).run(&fetch(&to)).exits(0);
        assert_eq!(got(&to).as_deref(), Some("a tool\n"));
        flow(&run, &server, 873, Verdict::Allow, "rsync rsync://");
        let flow = run.flow(server.v4(), 873);
        assert_eq!(flow.name.as_deref(), Some("files.internal"));
        shown.recorded(&run);
    }
    for policy in refusing("files.internal", Some(873)) {
        let run = world.guard().policy(&policy).run(&fetch("no")).exits(10);
        let run = run.warns("Connection refused (111)");
        flow(&run, &server, 873, Verdict::Deny, "rsync rsync://");
        found(
            &run,
            "rsync was refused files.internal:873",
            "rsync rsync://",
        );
        by_port.refused(&run);
    }
    for policy in refusing("files.internal", None) {
        let run = world.guard().policy(&policy).run(&fetch("no")).exits(10);
        assert_eq!(run.verdict_on("files.internal"), Verdict::Deny);
        assert!(run.flows(server.v4()).is_empty());
        let title = "rsync was refused the lookup of files.internal";
        found(&run, title, "rsync rsync://");
        by_name.refused(&run);
    }
    assert_eq!(got("no"), None);
}

/// A real sshd on this machine, with a key for root. Its directory below /run, and who is who, are the machine's own.
fn sshd(world: &World, server: &Node) {
    let dir = world.dir().display().to_string();
    let keys =
        "for key in host client; do ssh-keygen -q -t ed25519 -N '' -f $key; done; mkdir none";
    world.run(&["sh", "-ec", keys]).succeeds();
    let config = format!(
        "Port 22\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/client.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin yes\nPasswordAuthentication no\nUseDNS no\n"
    );
    world.file("sshd_config", &config);
    // Root may have no password at all there, which sshd takes for nobody's account.
    let start = "sed 's/^root:[^:]*:/root:*:/' /etc/shadow >shadow; mount --bind shadow /etc/shadow
        grep -q ^sshd: /etc/passwd || { cp /etc/passwd .; echo sshd:x:993:65534::/run/sshd:/usr/sbin/nologin >>passwd; mount --bind passwd /etc/passwd; }
        mount -t tmpfs -o mode=755 none /run; mkdir /run/sshd; exec /usr/sbin/sshd -D -e -f $PWD/sshd_config";
    server.serve(22, &["sh", "-ec", start]);
}

/// What ssh needs to know nothing and nobody of this host.
fn options(world: &World) -> String {
    let key = world.dir().join("client");
    format!(
        "-F /dev/null -i {} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        key.display()
    )
}

#[test]
fn what_another_host_fetches_for_a_run_is_seen_as_the_way_there() {
    let shown = case!(44, "a real sshd");
    let by_name = case!(44, "a real sshd, by a rule about its name");
    let by_port = case!(44, "a real sshd, by a rule about its port");
    let (world, server) = with_server("sshd", "other.internal");
    sshd(&world, &server);
    let github = world.node("github");
    github.http();
    let there = format!("curl -sS http://{}/", github.v4());
    let ssh = format!("ssh {} root@other.internal", options(&world));
    let mut ssh: Vec<_> = ssh.split(' ').collect();
    ssh.push(&there);
    let bare = world.run(&ssh).says("hello from github");
    for shown in [&shown, &by_name, &by_port] {
        shown.outside(&bare);
    }
    let denied_there = format!("mode: enforce\nrules:\n  - deny: {}\n", github.v4());
    for policy in [denied_there, only("other.internal:22")] {
        let run = world.guard().policy(&policy).run(&ssh).exits(0);
        // Of what the other host does nobody here is asked: what is seen is the way there, and what was typed.
        let run = run.says("hello from github");
        assert!(run.flows(github.v4()).is_empty());
        flow(&run, &server, 22, Verdict::Allow, "ssh -F");
        let way = run.flow(server.v4(), 22);
        assert_eq!(way.name.as_deref(), Some("other.internal"));
        assert!(run.chain(way.subject)[0].ends_with(&there));
        shown.recorded(&run);
    }
    for policy in refusing("other.internal", Some(22)) {
        let run = world.guard().policy(&policy).run(&ssh).exits(255);
        let run = run.warns("port 22: Connection refused");
        flow(&run, &server, 22, Verdict::Deny, "ssh -F");
        found(&run, "ssh was refused other.internal:22", "ssh -F");
        by_port.refused(&run);
    }
    for policy in refusing("other.internal", None) {
        let run = world.guard().policy(&policy).run(&ssh).exits(255);
        let run = run.warns("Could not resolve hostname other.internal");
        assert_eq!(run.verdict_on("other.internal"), Verdict::Deny);
        assert!(run.flows(server.v4()).is_empty());
        found(
            &run,
            "ssh was refused the lookup of other.internal",
            "ssh -F",
        );
        by_name.refused(&run);
    }
}

#[test]
fn git_by_ssh() {
    let shown = case!(31, "git by ssh");
    let denied = case!(31, "git by ssh, by a rule about its port");
    let (world, server) = with_server("git_ssh", "git.internal");
    sshd(&world, &server);
    let forge = git_repository(&world, "tool", "README", "a tool\n");
    let url = format!("ssh://root@git.internal{}/tool.git", forge.display());
    let ssh = format!("GIT_SSH_COMMAND=ssh {}", options(&world));
    let clone = |to: &str| ["env", &ssh, "git", "clone", "-q", &url, to].map(str::to_owned);
    let got = |to: &str| fs::read_to_string(world.dir().join(to).join("README")).ok();
    let bare = world.run(&clone("bare"));
    shown.outside(&bare);
    denied.outside(&bare);
    let allowed = ["rules: []\n".to_owned(), only("git.internal:22")];
    for (turn, policy) in allowed.iter().enumerate() {
        let to = format!("allowed{turn}");
        let run = world.guard().policy(policy).run(&clone(&to)).exits(0);
        assert_eq!(got(&to).as_deref(), Some("a tool\n"));
        flow(&run, &server, 22, Verdict::Allow, "ssh -F");
        let chain = run.chain(run.flow(server.v4(), 22).subject);
        assert!(
            chain.iter().any(|argv| argv.starts_with("git clone")),
            "{chain:?}"
        );
        shown.recorded(&run);
    }
    for policy in refusing("git.internal", Some(22)) {
        let run = world.guard().policy(&policy).run(&clone("no")).exits(128);
        let run = run.warns("port 22: Connection refused");
        flow(&run, &server, 22, Verdict::Deny, "ssh -F");
        found(&run, "ssh was refused git.internal:22", "ssh -F");
        denied.refused(&run);
    }
    assert_eq!(got("no"), None);
}
