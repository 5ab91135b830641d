//! Real tools on real input, under observe and in a rehearsal, which contains them: they work unchanged, and the report
//! has everything.

use std::collections::BTreeSet;
use std::path::PathBuf;

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::node::git_repository;
use blackstart_lab::{Guard, Guarded, World, Zone, case};

/// Both ways of guarding a tool that reaches for nothing but `name`.
fn guards<'w>(world: &'w World, name: &str) -> [Guard<'w>; 2] {
    let rehearsal = format!("mode: enforce\ndefault: deny\nrules:\n  - allow: {name}\n");
    [world.guard(), world.guard().policy(&rehearsal)]
}

/// The flow to the server was made by a process of this name, under this name.
#[track_caller]
fn reached(run: &Guarded, name: &str, port: u16, tool: &str) {
    let report = run.report();
    let flow = report.flows.iter().find(|flow| {
        flow.name.as_deref() == Some(name) && flow.port == port && flow.protocol == "tcp"
    });
    let flow = flow.unwrap_or_else(|| panic!("no flow to {name}:{port} in {:#?}", report.flows));
    assert_eq!(
        (flow.verdict, flow.outcome),
        (Verdict::Allow, Outcome::Connected)
    );
    assert!(
        run.chain(flow.subject)
            .iter()
            .any(|argv| argv.contains(tool)),
        "{:?}",
        run.chain(flow.subject)
    );
    assert_eq!(run.verdict_on(name), Verdict::Allow);
    assert_eq!(report.coverage.lost, 0);
    assert_eq!(run.gaps(), BTreeSet::new());
}

#[test]
fn git_clone() {
    let shown = case!(31, "git's own protocol");
    let world = World::new("git_clone");
    let forge = world.node("forge");
    let repositories = git_repository(&world, "tool", "README", "a tool\n");
    forge.git_daemon(&repositories);
    forge.files_https(&repositories, &world.authority(), &["git.example"]);
    world.dns(Zone::new().host("git.example", &forge));
    let bare = ["git", "clone", "-q", "git://git.example/tool.git", "bare"];
    shown.outside(&world.run(&bare));
    for (turn, guard) in guards(&world, "git.example").into_iter().enumerate() {
        let to = format!("one{turn}");
        let run = guard
            .run(&["git", "clone", "-q", "git://git.example/tool.git", &to])
            .exits(0);
        reached(&run, "git.example", 9418, "git clone");
        shown.recorded(&run);
    }
    for (turn, guard) in guards(&world, "git.example").into_iter().enumerate() {
        let to = format!("two{turn}");
        let run = guard
            .run(&["git", "clone", "-q", "https://git.example/tool.git", &to])
            .exits(0);
        reached(&run, "git.example", 443, "git-remote-https");
        let (one, two) = (format!("one{turn}/README"), format!("{to}/README"));
        world.run(&["cmp", &one, &two]).succeeds();
    }
}

#[test]
fn apt_get_update() {
    let world = World::new("apt_get");
    let mirror = world.node("mirror");
    let make = "set -e; mkdir -p apt/dists/lab/main/binary-all; cd apt; : >dists/lab/main/binary-all/Packages; cd dists/lab; \
        { echo 'Origin: lab'; echo 'Suite: lab'; echo 'Codename: lab'; echo 'Architectures: all'; echo 'Components: main'; \
          echo 'Date: Thu, 01 Jan 2026 00:00:00 UTC'; echo 'SHA256:'; \
          echo \" $(sha256sum main/binary-all/Packages | cut -d' ' -f1) 0 main/binary-all/Packages\"; } >Release";
    world.run(&["sh", "-c", make]).succeeds();
    mirror.files(80, &world.dir().join("apt"));
    world.dns(Zone::new().host("deb.example", &mirror));
    world.file(
        "sources.list",
        "deb [trusted=yes arch=all] http://deb.example lab main\n",
    );
    let at = |path: &str| world.dir().join(path).display().to_string();
    for dir in ["lists/partial", "cache/archives/partial", "parts"] {
        std::fs::create_dir_all(world.dir().join(dir)).unwrap();
    }
    let options = [
        format!("Dir::Etc::sourcelist={}", at("sources.list")),
        format!("Dir::Etc::sourceparts={}", at("parts")),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        // The world's directory is root's own; apt's own user could not write there.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::http::Proxy=false".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    let mut command = vec!["apt-get".to_owned(), "update".to_owned()];
    command.extend(
        options
            .into_iter()
            .flat_map(|option| ["-o".to_owned(), option]),
    );
    for guard in guards(&world, "deb.example") {
        let run = guard.run(&command).exits(0);
        reached(&run, "deb.example", 80, "/apt/methods/http");
        assert!(
            run.ended.stdout.contains("http://deb.example"),
            "{:?}",
            run.ended
        );
    }
}

#[test]
fn pip_download() {
    let world = World::new("pip_download");
    let index = world.node("index");
    let make = "import zipfile, os\n\
        os.makedirs('index/simple/labpkg')\n\
        name = 'labpkg-1.0-py3-none-any.whl'\n\
        with zipfile.ZipFile('index/simple/labpkg/' + name, 'w') as wheel:\n\
        \x20 wheel.writestr('labpkg.py', 'x = 1\\n')\n\
        \x20 wheel.writestr('labpkg-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: labpkg\\nVersion: 1.0\\n')\n\
        \x20 wheel.writestr('labpkg-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        \x20 wheel.writestr('labpkg-1.0.dist-info/RECORD', '')\n\
        open('index/simple/labpkg/index.html', 'w').write(f'<a href=\"{name}\">{name}</a>')\n";
    world.run(&["/usr/bin/python3", "-c", make]).succeeds();
    index.files(80, &world.dir().join("index"));
    world.dns(Zone::new().host("pypi.example", &index));
    for guard in guards(&world, "pypi.example") {
        let run = guard
            .run(&[
                "/usr/bin/python3",
                "-m",
                "pip",
                "--isolated",
                "--disable-pip-version-check",
                "download",
                "--no-cache-dir",
                "--index-url",
                "http://pypi.example/simple",
                "--trusted-host",
                "pypi.example",
                "-d",
                "got",
                "labpkg",
            ])
            .exits(0);
        reached(&run, "pypi.example", 80, "-m pip");
    }
    assert!(world.dir().join("got/labpkg-1.0-py3-none-any.whl").exists());
}

#[test]
fn cargo_fetch() {
    let world = World::new("cargo_fetch");
    let forge = world.node("forge");
    world.file("work-dep/src/lib.rs", "");
    let repositories = git_repository(
        &world,
        "dep",
        "Cargo.toml",
        "[package]\nname = \"dep\"\nversion = \"1.0.0\"\nedition = \"2024\"\n",
    );
    forge.git_daemon(&repositories);
    world.dns(Zone::new().host("crates.example", &forge));
    world.file("user/Cargo.toml", "[package]\nname = \"user\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\ndep = { git = \"git://crates.example/dep.git\" }\n");
    world.file("user/src/lib.rs", "");
    // The real cargo, not rustup's: what runs in a world has no home with a toolchain in it.
    let cargo = PathBuf::from(std::env::var("CARGO").expect("cargo says where it is"));
    let manifest = world.dir().join("user/Cargo.toml").display().to_string();
    let run = world
        .guard()
        .env(
            "CARGO_HOME",
            &world.dir().join("cargo-home").display().to_string(),
        )
        .env(
            "RUSTC",
            &cargo.with_file_name("rustc").display().to_string(),
        )
        .run(&[
            &cargo.display().to_string(),
            "fetch",
            "--manifest-path",
            &manifest,
        ])
        .exits(0);
    reached(&run, "crates.example", 9418, "fetch");
}
