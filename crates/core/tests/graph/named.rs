//! What the deployment names, and what a tool knew by itself.

use blackstart_core::graph::loops::LoopKind;
use blackstart_core::graph::own_scripts;

use crate::shown;
use crate::story::{Story, catalog, deploy, example, joined, loops_of};

/// The kind of the one loop of a story in the example.
fn kind(story: &Story) -> Option<LoopKind> {
    let catalog = example();
    let graph = joined(&catalog, &[story]);
    let found = loops_of(&graph);
    assert_eq!(found.len(), 1, "{:?}", shown(&graph, &found));
    found[0].kind
}

#[test]
fn named_in_the_command_line() {
    let curl = ["curl", "-fsS", "https://user@GitHub.com:443/x"];
    let story = Story::of("mysql", &curl)
        .process(0, "/usr/bin/curl", &curl)
        .reaches(1, "github.com", "192.0.2.1", 443);
    assert_eq!(kind(&story), Some(LoopKind::Direct));
    // Something else that ends, begins or goes on like it is not it.
    for other in [
        "https://api.github.com/x",
        "https://github.com.evil.example/x",
        "evilgithub.com",
        "${host}.github.com",
        "github.company",
        "github",
    ] {
        let story = Story::of("mysql", &["tool", other])
            .process(0, "/usr/bin/tool", &["tool", other])
            .reaches(1, "github.com", "192.0.2.1", 443);
        assert_eq!(kind(&story), Some(LoopKind::Hidden), "{other}");
    }
    let catalog = catalog(&[
        "name: mysql",
        "name: github\nprovides: [192.0.2.1, \"2001:db8::1\"]\nneeds: [mysql]",
    ]);
    for (word, address, named) in [
        ("http://192.0.2.1:80/x", "192.0.2.1", true),
        ("http://192.0.2.11/x", "192.0.2.1", false),
        ("[2001:DB8:0::1]:443", "2001:db8::1", true),
        ("--to=2001:db8::1", "2001:db8::1", true),
        ("[2001:db8::12]", "2001:db8::1", false),
    ] {
        let story = Story::of("mysql", &["tool", word])
            .process(0, "/usr/bin/tool", &["tool", word])
            .reaches(1, "", address, 80);
        let graph = joined(&catalog, &[&story]);
        let wanted = if named {
            LoopKind::Direct
        } else {
            LoopKind::Hidden
        };
        assert_eq!(loops_of(&graph)[0].kind, Some(wanted), "{word} {address}");
    }
}

#[test]
fn named_in_a_script_that_was_executed() {
    let text = "#!/bin/bash\nHOST=github.com\ncurl \"https://$HOST/x\" # and not api.example\n";
    // The process that goes there says nothing of it: the script does.
    let story = || {
        deploy()
            .process(1, "./lib/fetch.sh", &["/bin/sh", "./lib/fetch.sh"])
            .process(2, "/usr/bin/fetcher", &["fetcher", "--config", "x"])
            .reaches(3, "github.com", "192.0.2.1", 443)
    };
    let named = story().scripts(&[("/srv/deploy/lib/fetch.sh", text)]);
    assert_eq!(named.0.run.scripts.len(), 2);
    assert_eq!(named.0.run.scripts[1].names, ["github.com"]);
    assert_eq!(kind(&named), Some(LoopKind::Direct));
    // A script that was not executed says nothing.
    let idle = story().scripts(&[("/srv/deploy/lib/other.sh", text)]);
    assert_eq!(kind(&idle), Some(LoopKind::Hidden));
}

#[test]
fn named_in_the_arguments_of_what_a_script_executes() {
    let url = "https://github.com/x";
    // A subshell is the script still; a wrapper's arguments are what the script wrote.
    for (exe, argv) in [
        ("/usr/bin/curl", &["curl", url][..]),
        ("/usr/bin/sudo", &["sudo", "-n", "curl", url]),
    ] {
        let story = deploy()
            .process(1, "./deploy.sh", &["/bin/bash", "./deploy.sh"])
            .process(2, exe, argv)
            .process(3, "/usr/bin/child", &["child"])
            .reaches(4, "github.com", "192.0.2.1", 443);
        assert_eq!(kind(&story), Some(LoopKind::Direct), "{exe}");
    }
    // The update check of a tool that spawns curl: whoever wrote the deployment did not write that.
    let update = deploy()
        .process(1, "/usr/local/bin/tool", &["tool", "run"])
        .process(2, "/usr/bin/curl", &["curl", url])
        .reaches(3, "github.com", "192.0.2.1", 443);
    assert_eq!(kind(&update), Some(LoopKind::Hidden));
}

#[test]
fn a_tool_that_is_a_script_is_not_the_deployment_s() {
    let url = "https://github.com/x";
    let pip = |exe: &str, argv: &[&str]| {
        deploy()
            .process(1, exe, argv)
            .process(2, "/usr/bin/git", &["git", "clone", url])
            .reaches(3, "github.com", "192.0.2.1", 443)
            .scripts(&[])
    };
    for (exe, argv) in [
        (
            "/usr/bin/pip",
            &["/usr/bin/python3", "/usr/bin/pip", "install", "x"][..],
        ),
        // A virtual environment right below the deployment.
        (
            "./env/bin/pip",
            &["/srv/deploy/env/bin/python3", "./env/bin/pip", "install"],
        ),
        (
            "./.venv/bin/pip",
            &["/opt/python3", "./.venv/bin/pip", "install"],
        ),
        (
            "./node_modules/x/cli.js",
            &["/usr/bin/node", "./node_modules/x/cli.js"],
        ),
        ("/opt/tool/run.sh", &["/bin/sh", "/opt/tool/run.sh"]),
    ] {
        assert_eq!(kind(&pip(exe, argv)), Some(LoopKind::Hidden), "{exe}");
        let old = pip(exe, argv).with(|report| report.run.scripts.clear());
        assert_eq!(kind(&old), Some(LoopKind::Hidden), "{exe}");
    }
    assert_eq!(
        kind(&pip("./step.py", &["/usr/bin/python3", "./step.py"])),
        Some(LoopKind::Direct)
    );
    // pip itself as the command: its directory is nobody's own.
    let story = Story::of("mysql", &["pip", "install", "x"])
        .process(
            0,
            "/usr/bin/pip",
            &["/usr/bin/python3", "/usr/bin/pip", "install", "x"],
        )
        .process(1, "/usr/bin/git", &["git", "clone", url])
        .reaches(2, "github.com", "192.0.2.1", 443)
        .scripts(&[]);
    assert_eq!(story.0.run.scripts, []);
    assert_eq!(kind(&story), Some(LoopKind::Hidden));
}

#[test]
fn the_command_s_own_directory() {
    let own = |command: &[&str], processes: &[(&str, &[&str])]| {
        let mut story = Story::of("mysql", command);
        for (parent, (exe, argv)) in processes.iter().enumerate() {
            story = story.process(parent as u64, exe, argv);
        }
        let scripts = own_scripts(&story.0, Some("/srv"));
        scripts.into_iter().map(|s| s.path).collect::<Vec<_>>()
    };
    let sh = "/bin/sh";
    for (command, processes, wanted) in [
        // Behind an interpreter, a wrapper, and by PATH.
        (
            &["bash", "d/run.sh"][..],
            &[("/bin/bash", &["bash", "d/run.sh"][..])][..],
            &["/srv/d/run.sh"][..],
        ),
        (
            &["env", "A=1", "./d/run.sh"],
            &[
                ("/usr/bin/env", &["env", "A=1", "./d/run.sh"]),
                ("./d/run.sh", &[sh, "./d/run.sh"]),
            ],
            &["/srv/d/run.sh"],
        ),
        (
            &["run.sh"],
            &[("/opt/d/run.sh", &[sh, "/opt/d/run.sh"])],
            &["/opt/d/run.sh"],
        ),
        // #!/usr/bin/env: the kernel runs env, env the interpreter.
        (
            &["./d/x"],
            &[
                ("./d/x", &["/usr/bin/env", "python3", "./d/x"]),
                ("/usr/bin/python3", &["python3", "./d/x"]),
            ],
            &["/srv/d/x"],
        ),
        // Above or beside is not below.
        (
            &["./d/run.sh"],
            &[
                ("./d/run.sh", &[sh, "./d/run.sh"]),
                ("./d/../other.sh", &[sh, "./d/../other.sh"]),
            ],
            &["/srv/d/run.sh"],
        ),
        (
            &["./d/run.sh"],
            &[
                ("./d/run.sh", &[sh, "./d/run.sh"]),
                ("/srv/d2/x.sh", &[sh, "/srv/d2/x.sh"]),
                ("/srv/d/sub/x.sh", &[sh, "/srv/d/sub/x.sh"]),
            ],
            &["/srv/d/run.sh", "/srv/d/sub/x.sh"],
        ),
        // A program of its own is no script, yet its directory is the command's.
        (
            &["./d/tool"],
            &[
                ("./d/tool", &["./d/tool"]),
                ("/srv/d/x.sh", &[sh, "/srv/d/x.sh"]),
            ],
            &["/srv/d/x.sh"],
        ),
        (&["sh", "-c", "x"], &[("/bin/sh", &["sh", "-c", "x"])], &[]),
        (
            &["/usr/bin/certbot"],
            &[(
                "/usr/bin/certbot",
                &["/usr/bin/python3", "/usr/bin/certbot"],
            )],
            &[],
        ),
        (&["x"], &[], &[]),
        (&[], &[], &[]),
    ] {
        assert_eq!(own(command, processes), wanted, "{command:?}");
    }
}
