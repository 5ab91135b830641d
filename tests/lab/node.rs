//! One machine of a world: a network namespace with its own name-service files.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::child::Running;
use crate::web::{Authority, Web};

/// A machine of a world. Cheap to clone; the machine lives as long as its world.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    namespace: String,
    number: u16,
    runtime: tokio::runtime::Handle,
    dir: PathBuf,
    /// Holds the mount namespace open; commands enter it by this process.
    holder: Mutex<Option<Child>>,
    /// Programs that serve on this machine, ended with it.
    servers: Mutex<Vec<Running>>,
}

impl Node {
    pub(crate) fn new(
        name: &str,
        namespace: &str,
        number: u16,
        runtime: tokio::runtime::Handle,
        dir: PathBuf,
    ) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            number,
            runtime,
            dir,
            holder: Mutex::default(),
            servers: Mutex::default(),
        }))
    }

    /// Its name within the world.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file that stands for its network namespace.
    pub fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0.namespace)
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(
            10,
            77,
            0,
            u8::try_from(self.0.number).expect("a world has fewer than 250 machines"),
        )
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.0.number)
    }

    /// Mount this world's name-service files in a mount namespace of its own, and a bpffs if one is asked for.
    pub(crate) fn furnish(&self, etc: &Path, bpffs: bool) {
        let mut script = String::new();
        for file in ["resolv.conf", "hosts", "nsswitch.conf"] {
            script += &format!("mount --bind '{}/{file}' /etc/{file}\n", etc.display());
        }
        // A fresh bpffs, so that what one world leaves pinned no other can see.
        if bpffs {
            script += "mount -t bpf bpf /sys/fs/bpf\n";
        }
        // The holder ends with the thread that started it, should that be killed.
        script += "echo furnished\nexec sleep infinity\n";
        let mut holder = Command::new("nsenter")
            .arg(format!("--net={}", self.namespace().display()))
            .args(["setpriv", "--pdeathsig", "KILL"])
            .args([
                "unshare",
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-ec",
                &script,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the machine's holder process (package util-linux)");
        let mut line = String::new();
        io::BufRead::read_line(
            &mut io::BufReader::new(holder.stdout.take().expect("piped")),
            &mut line,
        )
        .expect("hear from the machine's holder process");
        assert_eq!(
            line,
            "furnished\n",
            "the machine {} could not be furnished",
            self.name()
        );
        *self.0.holder.lock().expect("no panic while held") = Some(holder);
    }

    /// The program and arguments that run `command` on this machine; the process ids stay the same
    /// through every step, since each one only exec's the next.
    pub fn command<S: AsRef<str>>(&self, command: &[S]) -> Command {
        let holder = self.0.holder.lock().expect("no panic while held");
        let holder = holder
            .as_ref()
            .expect("commands run on furnished machines only")
            .id();
        let mut program = Command::new("nsenter");
        program
            .arg(format!("--net={}", self.namespace().display()))
            .arg(format!("--mount=/proc/{holder}/ns/mnt"))
            .arg(format!("--wdns={}", self.0.dir.display()))
            .arg("--")
            .args(command.iter().map(AsRef::as_ref));
        let ca = self.0.dir.join("etc/ca.pem");
        program
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.0.dir.join("home"))
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm")
            .stdin(Stdio::null());
        if ca.exists() {
            for variable in [
                "CURL_CA_BUNDLE",
                "SSL_CERT_FILE",
                "GIT_SSL_CAINFO",
                "PIP_CERT",
                "CARGO_HTTP_CAINFO",
            ] {
                program.env(variable, &ca);
            }
        }
        program
    }

    /// Start a command on this machine.
    pub fn start<S: AsRef<str>>(&self, command: &[S]) -> Running {
        Running::start(self.command(command), &self.0.dir)
    }

    /// Start a program that serves on this machine until the world ends, and wait until it takes
    /// connections on `port`.
    pub fn serve<S: AsRef<str>>(&self, port: u16, command: &[S]) {
        let mut running = self.start(command);
        let to = SocketAddr::new(self.v4().into(), port);
        for _ in 0..500 {
            if self.inside(|| {
                std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok()
            }) {
                self.0
                    .servers
                    .lock()
                    .expect("no panic while held")
                    .push(running);
                return;
            }
            if let Some(ended) = running.try_wait() {
                panic!(
                    "{} ended instead of serving on {to}: {ended:?}",
                    command[0].as_ref()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} does not take connections on {to}", command[0].as_ref());
    }

    /// Do something in this machine's network namespace. What is made there (a socket) stays there,
    /// whichever thread uses it later.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.namespace()).expect("open the network namespace");
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    rustix::thread::move_into_link_name_space(
                        namespace.as_fd(),
                        Some(rustix::thread::LinkNameSpaceType::Network),
                    )
                    .expect("enter the network namespace");
                    act()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What is pinned in this machine's bpffs.
    pub(crate) fn pins(&self) -> Vec<PathBuf> {
        let holder = self.0.holder.lock().expect("no panic while held");
        let holder = holder
            .as_ref()
            .expect("only furnished machines have a bpffs")
            .id();
        std::fs::read_dir(format!("/proc/{holder}/root/sys/fs/bpf"))
            .expect("read the machine's bpffs")
            .flatten()
            // The files in its root are the kernel's own iterators.
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()
    }

    /// Another address of this machine.
    pub fn add_address(&self, address: IpAddr) {
        let (with_length, extra) = match address {
            IpAddr::V4(v4) => (format!("{v4}/24"), None),
            IpAddr::V6(v6) => (format!("{v6}/64"), Some("nodad")),
        };
        let status = Command::new("ip")
            .args([
                "-n",
                &self.0.namespace,
                "addr",
                "add",
                &with_length,
                "dev",
                "eth0",
            ])
            .args(extra)
            .status()
            .expect("run ip (package iproute2)");
        assert!(status.success(), "address {address} could not be added");
    }

    /// An HTTP server on port 80 that answers every path with `hello from NAME`.
    pub fn http(&self) -> Web {
        Web::hello(self, 80, None)
    }

    /// The same on any port.
    pub fn http_on(&self, port: u16) -> Web {
        Web::hello(self, port, None)
    }

    /// The same, by a server that takes data with the first packet (TCP Fast Open): who has been there once has a cookie,
    /// and needs to wait for no handshake.
    pub fn http_fast_open(&self, port: u16) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/fast_open.py");
        self.inside(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3"))
            .expect("have the machine take data with a first packet");
        self.serve(
            port,
            &[
                "/usr/bin/python3",
                &script.display().to_string(),
                self.name(),
                &port.to_string(),
            ],
        );
    }

    /// The same with TLS on port 443, under these names.
    pub fn https(&self, authority: &Authority, names: &[&str]) -> Web {
        Web::hello(self, 443, Some(authority.acceptor(names)))
    }

    /// An HTTP server that takes what is posted, and answers with these codes, the last one for good; with none for 0.
    pub fn sink(&self, port: u16, codes: &[u16]) -> Web {
        Web::sink(self, port, codes, None)
    }

    /// The same with TLS on port 443, under these names.
    pub fn sink_https(&self, codes: &[u16], authority: &Authority, names: &[&str]) -> Web {
        Web::sink(self, 443, codes, Some(authority.acceptor(names)))
    }

    /// An HTTP server for the files below `dir`.
    pub fn files(&self, port: u16, dir: &Path) -> Web {
        Web::files(self, port, dir, None)
    }

    /// The same with TLS on port 443, under these names.
    pub fn files_https(&self, dir: &Path, authority: &Authority, names: &[&str]) -> Web {
        Web::files(self, 443, dir, Some(authority.acceptor(names)))
    }

    /// Send back whatever comes on a TCP connection.
    pub fn tcp_echo(&self, port: u16) {
        let listener = self.listen(port);
        self.spawn(async move {
            let listener =
                tokio::net::TcpListener::from_std(listener).expect("take the listener over");
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let mut buffer = [0; 4096];
                    while let Ok(n @ 1..) = read.read(&mut buffer).await {
                        if write.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }

    /// Send back every datagram.
    pub fn udp_echo(&self, port: u16) {
        self.udp(port, |datagram| vec![datagram.to_vec()]);
    }

    /// Answer each datagram with what `answer` makes of it: nothing, one datagram or several. The
    /// place for malformed DNS answers.
    pub fn udp(&self, port: u16, answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        let answer = Arc::new(answer);
        for socket in self.datagrams(port) {
            let answer = Arc::clone(&answer);
            self.spawn(async move {
                let socket = tokio::net::UdpSocket::from_std(socket).expect("take the socket over");
                let mut buffer = vec![0; 65_536];
                while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
                    for datagram in answer(&buffer[..n]) {
                        let _ = socket.send_to(&datagram, from).await;
                    }
                }
            });
        }
    }

    /// A server of names over TLS on port 853 (RFC 7858) that answers each query with what `answer` makes of it.
    pub fn names_over_tls(
        &self,
        authority: &Authority,
        names: &[&str],
        answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) {
        let (listener, acceptor) = (self.listen(853), authority.acceptor(names));
        let answer = Arc::new(answer);
        self.spawn(async move {
            let listener =
                tokio::net::TcpListener::from_std(listener).expect("take the listener over");
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; usize::from(length)];
                        if stream.read_exact(&mut query).await.is_err() {
                            break;
                        }
                        let answer = answer(&query);
                        let length = u16::try_from(answer.len()).expect("a short answer");
                        let both = [&length.to_be_bytes()[..], &answer].concat();
                        if stream.write_all(&both).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }

    /// The same over HTTPS on port 443 (RFC 8484), whatever the path is.
    pub fn names_over_https(
        &self,
        authority: &Authority,
        names: &[&str],
        answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + Sync + 'static,
    ) -> Web {
        Web::names(self, 443, answer, Some(authority.acceptor(names)))
    }

    /// A `git daemon` for the repositories below `dir`.
    pub fn git_daemon(&self, dir: &Path) {
        let base = format!("--base-path={}", dir.display());
        self.serve(
            9418,
            &[
                "git",
                "daemon",
                "--export-all",
                "--reuseaddr",
                "--informative-errors",
                &base,
            ],
        );
    }

    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        // An IPv6 wildcard takes both families.
        let listener = self
            .inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
            .unwrap_or_else(|e| panic!("listen on port {port} of {}: {e}", self.name()));
        listener
            .set_nonblocking(true)
            .expect("make the listener non-blocking");
        listener
    }

    /// One socket for each family, bound to the address and not to the wildcard: an answer must leave
    /// from the address that was asked.
    pub(crate) fn datagrams(&self, port: u16) -> [UdpSocket; 2] {
        [IpAddr::from(self.v4()), IpAddr::from(self.v6())].map(|address| {
            let socket = self
                .inside(|| UdpSocket::bind((address, port)))
                .unwrap_or_else(|e| panic!("bind UDP port {port} of {}: {e}", self.name()));
            socket
                .set_nonblocking(true)
                .expect("make the socket non-blocking");
            socket
        })
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.runtime.spawn(task);
    }

    pub(crate) fn stop(&self) {
        self.0.servers.lock().expect("no panic while held").clear();
        if let Some(mut holder) = self.0.holder.lock().expect("no panic while held").take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// A directory that holds the bare repository `NAME.git` with one file in one commit, ready for any transport.
pub fn git_repository(world: &crate::World, name: &str, file: &str, text: &str) -> PathBuf {
    world.file(&format!("work-{name}/{file}"), text);
    let script = format!(
        "set -e; mkdir -p forge; cd work-{name}; git init -q -b main; git add .; \
         git -c user.name=lab -c user.email=lab@example.org commit -q -m first; \
         git clone -q --bare . ../forge/{name}.git; git -C ../forge/{name}.git update-server-info"
    );
    world.run(&["sh", "-c", &script]).succeeds();
    world.dir().join("forge")
}
