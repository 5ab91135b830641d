//! The world of `examples/demo`: GitHub's example of April 2026, on real servers.

use crate::{World, Zone, node, workspace};

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
