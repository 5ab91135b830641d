//! The world of `examples/demo`: GitHub's example of April 2026, on real servers.

use std::fs;
use std::path::PathBuf;

use crate::{Guarded, World, Zone, node, program, workspace};

/// The path of a file of the example.
pub fn example(name: &str) -> String {
    workspace::root()
        .join("examples/demo")
        .join(name)
        .display()
        .to_string()
}

/// A deployment of the example, with its report as JSON and as a page, and the tool that calls home where tools are: not beside
/// the script.
pub fn deploy(world: &World, mode: &str) -> (Guarded, PathBuf, PathBuf) {
    let tools = world.dir().join("opt/bin");
    fs::create_dir_all(&tools).expect("make a directory of tools");
    program::copy(example("tools/schema-check"), tools.join("schema-check"));
    let of = |ending: &str| world.dir().join(format!("{mode}.{ending}"));
    let path = std::env::var("PATH").expect("there is a PATH");
    let run = world
        .guard()
        .policy_path(example("policy.yaml").as_ref())
        .arg(&format!("--mode={mode}"))
        .arg(&format!("--catalog={}", example("catalog")))
        .arg(&format!("--report={}", of("json").display()))
        .arg(&format!("--report={}", of("html").display()))
        .env("PATH", &format!("{path}:{}", tools.display()))
        .env("MYSQL_ETC", &world.dir().join("etc").display().to_string())
        .run(&[example("deploy.sh")]);
    (run, of("json"), of("html"))
}

/// The machines and servers around the host that `deploy.sh` runs on.
pub fn world(name: &str) -> World {
    let demo = workspace::root().join("examples/demo");
    let world = World::new(name);
    let (github, api) = (world.node("github"), world.node("api"));
    let (mirror, migrations, metrics) = (
        world.node("mirror"),
        world.node("migrations"),
        world.node("metrics"),
    );
    let names = Zone::new()
        .host("github.com", &github)
        .host("api.github.com", &api)
        .host("mirror.internal", &mirror)
        .host("migrations.internal", &migrations)
        .host("metrics.internal", &metrics);
    world.dns(names);

    let authority = world.authority();
    github.files_https(&demo.join("site/github"), &authority, &["github.com"]);
    github.git_daemon(&node::git_repository(
        &world,
        "fleet-config",
        "max-connections.cnf",
        "max_connections = 2000\n",
    ));
    api.files_https(
        &demo.join("site/api.github.com"),
        &authority,
        &["api.github.com"],
    );
    mirror.files(80, &demo.join("site/mirror"));
    migrations.serve(
        8080,
        &[demo.join("services/migrations.py").display().to_string()],
    );
    metrics.tcp_echo(2003);
    // The database itself, on the host that is deployed to.
    world.host().tcp_echo(3306);
    world
}
