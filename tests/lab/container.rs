//! Containers on a world's host, made by podman and runc from an image that has busybox only.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::guard::binary;
use crate::program;
use crate::world::World;

/// The programs of the image, all of them busybox.
const PROGRAMS: [&str; 6] = ["cat", "ls", "sh", "sleep", "true", "wget"];

/// podman wants `/sys/fs/cgroup` to be the tree itself, which on a hybrid host it is not. It keeps everything in
/// the world's directory, besides any podman of this machine; its locks in a file, since those in shared memory
/// are one pool for the whole machine. runc, since crun refuses hybrid hosts.
const WRAPPER: &str = "#!/bin/sh\n\
    export CONTAINERS_CONF=DIR/containers.conf\n\
    exec unshare --mount --propagation slave sh -ec \
    'mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec podman \"$@\"' podman \
    --root DIR/store --runroot DIR/run --tmpdir DIR/tmp --storage-driver vfs \
    --runtime runc --cgroup-manager cgroupfs --events-backend none \"$@\"\n";

/// Written out, since limits may not be raised on every machine, and a hybrid one has no limit on processes there.
const LIMITS: [&str; 5] = [
    "--pids-limit=-1",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
    "--ulimit=memlock=65536:65536",
    "--ulimit=core=0:0",
];

/// A podman with one image.
pub struct Podman<'w> {
    world: &'w World,
    program: String,
}

impl<'w> Podman<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        let dir = world.dir().join("pods");
        let here = |text: &str| text.replace("DIR", &dir.display().to_string());
        world.file("pods/containers.conf", "[engine]\nlock_type = 'file'\n");
        let program = world.file("pods/podman", &here(WRAPPER));
        image(&dir.join("image"));
        let podman = Self {
            world,
            program: program.display().to_string(),
        };
        let make = format!(
            "tar -C {0}/image -cf {0}/image.tar . && {1} import -q {0}/image.tar lab",
            dir.display(),
            podman.program
        );
        world.run(&["sh", "-c", &make]).succeeds();
        podman
    }

    /// The beginning of a command line that runs the rest of it in a new container: on the host's network, with
    /// the world's directory and the binary under test at their own paths.
    pub fn line(&self, flags: &[&str]) -> Vec<String> {
        let dir = self.world.dir().display();
        let binary = binary();
        let mut line: Vec<_> = [
            &self.program,
            "run",
            "--rm",
            "--pull=never",
            "--network=host",
        ]
        .map(str::to_owned)
        .into();
        line.extend([
            format!("--cgroup-parent=/{}", self.world.id()),
            format!("--volume={dir}:{dir}"),
            format!("--volume={binary}:{binary}:ro"),
            "--env=BLACKSTART_STATE".to_owned(),
        ]);
        line.extend(LIMITS.iter().chain(flags).map(|&flag| flag.to_owned()));
        line.push("localhost/lab".to_owned());
        line
    }
}

/// Lay out what the image has.
fn image(root: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "tmp", "run", "var"] {
        fs::create_dir_all(root.join(dir)).expect("make a directory of the image");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox is not there (package busybox-static)");
    program::copy(busybox, root.join("bin/busybox"));
    for program in PROGRAMS {
        symlink("busybox", root.join("bin").join(program)).expect("make a program of the image");
    }
}
