//! How long real tools take over a denied name.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::bar::{Bar, Bound, Results};
use super::client::Client;
use super::pairs::{ENOUGH, Pairs};
use super::scene::{ABSENT, DENIED, Scene};

/// What the pairs of one tool may take in all; one that hangs gets fewer pairs.
const PATIENCE: Duration = Duration::from_secs(150);
/// Seconds after which a tool is ended.
const HANGS: u32 = 10;

/// A tool: what must be there, and a script that reaches for the name in `$1`.
struct Tool {
    name: &'static str,
    programs: &'static [&'static str],
    script: String,
}

/// Time until each tool gives up, against a name that does not exist.
pub(super) fn denied(scene: &Scene, results: &mut Results) {
    let tools = tools(scene.world().dir());
    for (default, policy) in [
        (
            "default: allow",
            format!("mode: enforce\ndefault: allow\nrules:\n  - deny: {DENIED}\n"),
        ),
        (
            "default: deny",
            "mode: enforce\ndefault: deny\nrules: []\n".to_owned(),
        ),
    ] {
        let (mut guarded, mut bare) = (scene.guarded_by(Some(&policy)), scene.bare());
        for tool in &tools {
            let what = format!("{} on a denied name, added ({default})", tool.name);
            let bound = Bound::AtMost(100.0);
            match prepare(scene, tool) {
                Ok(script) => results.add(measure(
                    scene,
                    &what,
                    bound,
                    &script,
                    (&mut guarded, &mut bare),
                )),
                Err(why) => results.add(Bar::skipped(what, "ms", bound, why)),
            }
        }
        guarded.end();
    }
}

fn measure(
    scene: &Scene,
    what: &str,
    bound: Bound,
    script: &str,
    (guarded, bare): (&mut Client, &mut Client),
) -> Bar {
    let output = |side: &str| scene.world().dir().join(format!("tool-{side}"));
    let mut codes = (0, 0);
    let ask = |client: &mut Client, side: &str, name: &str| {
        let answer = client.ask(&format!(
            "tool {} timeout {HANGS} {script} {name}",
            output(side).display()
        ));
        assert_ne!(answer[1], 0, "{what}: reached {name}");
        (
            Duration::from_nanos(answer[0]).as_secs_f64() * 1e3,
            answer[1],
        )
    };
    let began = Instant::now();
    let mut pairs = Pairs::default();
    // The first of each warms caches.
    ask(guarded, "guarded", DENIED);
    ask(bare, "bare", ABSENT);
    while pairs.0.len() < scene.count(ENOUGH) && began.elapsed() < PATIENCE {
        let (ours, ended) = ask(guarded, "guarded", DENIED);
        let (theirs, bare_ended) = ask(bare, "bare", ABSENT);
        codes = (ended, bare_ended);
        pairs.0.push((ours, theirs));
    }
    let ended = if codes.0 == codes.1 {
        format!("both exit {}", codes.0)
    } else {
        format!("exit {} guarded, {} bare", codes.0, codes.1)
    };
    let slowest = |pick: fn(&(f64, f64)) -> f64| pairs.0.iter().map(pick).fold(0.0, f64::max);
    let slowest = format!(
        "slowest {:.0} guarded, {:.0} bare",
        slowest(|pair| pair.0),
        slowest(|pair| pair.1)
    );
    Bar::added(what, "ms", bound, &pairs)
        .note(slowest)
        .note(ended)
        .note(last_line(&output("guarded")))
}

/// Write the tool's script, or say why the tool cannot be measured.
fn prepare(scene: &Scene, tool: &Tool) -> Result<String, String> {
    for program in tool.programs {
        let there = ["/usr/local/bin", "/usr/bin", "/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists());
        if !there {
            return Err(format!("{program} is not installed"));
        }
    }
    let script = scene.world().file(
        &format!("tool/{}", tool.name.replace([' ', '(', ')'], "-")),
        &format!("#!/bin/sh\n{}\n", tool.script),
    );
    Ok(script.display().to_string())
}

fn tools(dir: &Path) -> Vec<Tool> {
    let at = |path: &str| dir.join(path).display().to_string();
    for empty in [
        "apt/lists/partial",
        "apt/cache/archives/partial",
        "apt/parts",
        "go",
        "java",
    ] {
        fs::create_dir_all(dir.join(empty)).expect("make a directory for a tool");
    }
    fs::write(dir.join("go/go.mod"), "module bench\n\ngo 1.18\n").expect("write go.mod");
    let apt = at("apt");
    let tool = |name, programs, script: String| Tool {
        name,
        programs,
        script,
    };
    vec![
        tool("curl", &["curl"], "exec curl -sS http://$1/".to_owned()),
        tool("git", &["git"], "exec git ls-remote http://$1/x.git".to_owned()),
        tool(
            "apt-get",
            &["apt-get"],
            // Its own retries, with seconds between them, are no matter of ours; nor are pip's.
            format!(
                "echo \"deb [trusted=yes] http://$1 lab main\" >{apt}/sources.$1\n\
                 exec apt-get update -qq --error-on=any -o Dir::Etc::sourcelist={apt}/sources.$1 -o Dir::Etc::sourceparts={apt}/parts \
                 -o Dir::State::lists={apt}/lists -o Dir::Cache={apt}/cache -o APT::Sandbox::User=root \
                 -o Acquire::http::Proxy=false -o Acquire::Languages=none -o Acquire::Retries=0"
            ),
        ),
        tool(
            "pip",
            &["python3"],
            format!(
                "exec /usr/bin/python3 -m pip --isolated --disable-pip-version-check --retries 0 download \
                 --index-url http://$1/simple -d {} labpkg",
                at("pip")
            ),
        ),
        tool(
            "go",
            &["go"],
            format!(
                "cd {}; export GOPROXY=http://$1 GOFLAGS=-mod=mod GONOSUMDB=* GOPATH={} GOCACHE={}\n\
                 exec go mod download example.com/x@v1.0.0",
                at("go"),
                at("go/path"),
                at("go/cache")
            ),
        ),
        tool(
            "node",
            &["node"],
            "exec node -e \"require('http').get('http://'+process.argv[1]).on('error', e => { console.error(e.message); process.exit(1) })\" $1"
                .to_owned(),
        ),
        tool(
            "node (c-ares)",
            &["node"],
            "exec node -e \"require('dns').resolve4(process.argv[1], e => { if (e) { console.error(e.message); process.exit(1) } })\" $1"
                .to_owned(),
        ),
        tool("java", &["java", "javac"], java(&dir.join("java"))),
    ]
}

/// A class that connects, compiled beforehand.
fn java(dir: &Path) -> String {
    let source = "public class Reach { public static void main(String[] a) throws Exception {\n\
                  new java.net.Socket(a[0], 80).close(); } }\n";
    fs::write(dir.join("Reach.java"), source).expect("write the Java client");
    // Without a compiler the tool is skipped, by its programs.
    let _ = Command::new("javac")
        .current_dir(dir)
        .arg("Reach.java")
        .status();
    format!("exec java -Xshare:auto -cp {} Reach $1", dir.display())
}

fn last_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    line.trim().chars().take(100).collect()
}
