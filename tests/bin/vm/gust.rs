//! What blows in a storm: processes that do one thing over and over until their time is up, and count what came of it.
//! What the policy of the story allows has `open` in its name, what it denies `shut`, or an address that no name has.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::AddAssign;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::client;
use crate::servers::{CLAIMS, PORT, RESOLVER};

/// Processes of a storm: each kind of gust, in each way of being scheduled, as often.
const OF_EACH: u16 = 3;
const KINDS: [&str; 4] = ["lookups", "connects", "claims", "forks"];
const WAYS: [Way; 4] = [Way::Plain, Way::Last, Way::First, Way::RealTime];
/// Names that a gust has for itself.
const NAMES: u16 = 4;
/// A process of the lowest kind waits long for its turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a gust is scheduled. Who goes before others rests between two rounds, and so takes the processor from them
/// wherever they are, when it wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Last,
    First,
    RealTime,
}

/// What was done, and what came of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Attempts that are allowed, and that are denied.
    pub(crate) attempts: [u64; 2],
    /// Lookups likewise.
    pub(crate) queries: [u64; 2],
    /// Of the denied ones of both, those that were not refused at once.
    pub(crate) passed: u64,
    /// Of the allowed ones, those that failed.
    pub(crate) failed: u64,
    /// Answers of another name.
    pub(crate) mixed: u64,
    /// Processes.
    pub(crate) processes: u64,
    /// How often a process lost its processor without having asked to.
    pub(crate) preempted: u64,
}

impl Counts {
    fn fields(&mut self) -> [&mut u64; 9] {
        let [allowed, denied] = &mut self.attempts;
        let [asked, refused] = &mut self.queries;
        [
            allowed,
            denied,
            asked,
            refused,
            &mut self.passed,
            &mut self.failed,
            &mut self.mixed,
            &mut self.processes,
            &mut self.preempted,
        ]
    }

    /// As [`Counts::told`] wrote it, on the last line of a text.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut counts = Self::default();
        let line = text
            .lines()
            .rev()
            .find_map(|l| l.strip_prefix("counted "))?;
        let mut words = line.split(' ');
        for field in counts.fields() {
            *field = words.next()?.parse().ok()?;
        }
        Some(counts)
    }

    fn told(mut self) -> String {
        let words = self.fields().map(|field| field.to_string());
        format!("counted {}", words.join(" "))
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, mut other: Self) {
        for (field, more) in self.fields().into_iter().zip(other.fields()) {
            *field += *more;
        }
    }
}

/// The address of the name with this number.
pub(crate) fn address_of(number: u16) -> (Ipv4Addr, Ipv6Addr) {
    let [high, low] = number.to_be_bytes();
    (
        Ipv4Addr::new(198, 18, high, low),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number),
    )
}

/// One that no name has.
fn nobody(number: u16) -> (Ipv4Addr, Ipv6Addr) {
    let [high, low] = number.to_be_bytes();
    (
        Ipv4Addr::new(198, 19, high, low),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 2, number),
    )
}

/// Is it one of those?
pub(crate) fn is_nobodys(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[..2] == [198, 19],
        IpAddr::V6(v6) => v6.segments()[6] == 2,
    }
}

/// The number of a name, and whether it is an open one.
pub(crate) fn number_of(name: &str) -> Option<(u16, bool)> {
    let (number, kind) = name.strip_prefix('n')?.split_once('.')?;
    Some((number.parse().ok()?, kind.starts_with("open.")))
}

/// All gusts at once, for so many seconds; prints the sum of what they counted.
pub(crate) fn storm(seconds: &str) -> ExitCode {
    let mut gusts = Vec::new();
    for way in WAYS {
        for kind in KINDS {
            for _ in 0..OF_EACH {
                let number = gusts.len() * usize::from(NAMES);
                gusts.push(start(way, kind, number, seconds));
            }
        }
    }
    let mut sum = Counts::default();
    for gust in gusts {
        let output = gust.wait_with_output().expect("wait for a gust");
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(counts) = Counts::read(&text).filter(|_| output.status.success()) else {
            println!("a gust ended with {}: {text}", output.status);
            return ExitCode::FAILURE;
        };
        sum += counts;
    }
    println!("{}", sum.told());
    ExitCode::SUCCESS
}

fn start(way: Way, kind: &str, number: usize, seconds: &str) -> Child {
    let itself = std::env::current_exe().expect("the path of this program");
    let mut command = match way {
        Way::RealTime => {
            let mut command = Command::new("realtime");
            command.arg("10").arg(itself);
            command
        }
        _ => Command::new(itself),
    };
    command
        .args([
            "gust",
            &format!("{way:?}"),
            kind,
            &number.to_string(),
            seconds,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a gust")
}

/// One gust.
pub(crate) fn gust(way: &str, kind: &str, number: &str, seconds: &str) -> ExitCode {
    let begun = Instant::now();
    let number: u16 = number.parse().expect("a number");
    let lasts = Duration::from_secs(seconds.parse().expect("seconds"));
    match way {
        "Last" => rustix::process::setpriority_process(None, 19).expect("go behind"),
        "First" => rustix::process::setpriority_process(None, -20).expect("go before"),
        _ => {}
    }
    let mut gust = Gust {
        rests: matches!(way, "First" | "RealTime"),
        counts: Counts {
            processes: 1,
            ..Counts::default()
        },
        complaints: 0,
    };
    let mut round: u16 = 0;
    // Who reaches for addresses has to know them first.
    if kind != "lookups" {
        (number..number + NAMES).for_each(|n| gust.lookup(n));
    }
    while begun.elapsed() < lasts {
        let n = number + round % NAMES;
        match kind {
            "lookups" => gust.lookup(n),
            "connects" => gust.connects(n),
            "claims" => gust.claims(n, round),
            _ => gust.fork(n),
        }
        round = round.wrapping_add(1);
    }
    gust.counts.preempted = preempted();
    println!("{}", gust.counts.told());
    ExitCode::SUCCESS
}

/// A process that lives for one connection, and one that is refused.
pub(crate) fn breeze(number: &str) -> ExitCode {
    let number = number.parse().expect("a number");
    let open = greeting(address_of(number).0.into()).is_ok();
    let shut = is_refused(&greeting(nobody(number).0.into()));
    ExitCode::from(u8::from(!open) + 2 * u8::from(!shut))
}

struct Gust {
    counts: Counts,
    rests: bool,
    complaints: u32,
}

impl Gust {
    /// Say what was not as it should be, for whoever looks for the reason; the first few are enough.
    fn complain(&mut self, what: impl FnOnce() -> String) {
        if self.complaints < 3 {
            eprintln!("gust: {}", what());
        }
        self.complaints += 1;
    }

    /// After whatever was done: then the next thing begins where another process is in the middle of its own.
    fn rest(&self) {
        if self.rests {
            let odd = (self.counts.queries[0] + self.counts.attempts[0]) % 7;
            std::thread::sleep(Duration::from_millis(15 + 5 * odd));
        }
    }

    fn allowed(&mut self, what: &str, outcome: io::Result<()>) {
        if let Err(e) = outcome {
            self.counts.failed += 1;
            self.complain(|| format!("{what} failed: {e:?}"));
        }
        self.rest();
    }

    fn denied(&mut self, what: &str, refused: bool) {
        if !refused {
            self.counts.passed += 1;
            self.complain(|| format!("{what} was not refused"));
        }
        self.rest();
    }

    /// Both addresses of an open name, on a socket of its own; between them shut names, of other lengths.
    fn lookup(&mut self, number: u16) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        self.counts.attempts[0] += 1;
        let connected = socket.connect((RESOLVER, 53));
        self.allowed("connect to the resolver", connected);
        let (v4, v6) = address_of(number);
        let open = format!("n{number}.open.internal");
        for (turn, qtype, address) in [(0, 1, IpAddr::from(v4)), (1, 28, v6.into())] {
            for more in 0..3 {
                let shut = format!("n{number}.shut.{}internal", "a.".repeat(more));
                self.counts.queries[1] += 1;
                let sent = socket.send(&question(0x4000 + turn, &shut, qtype));
                let refused = sent.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
                self.denied("a lookup", refused);
            }
            self.counts.queries[0] += 1;
            let id = number ^ turn;
            match socket
                .send(&question(id, &open, qtype))
                .and_then(|_| answer(&socket, id))
            {
                Ok(answered) if answered == [address] => self.rest(),
                Ok(answered) => {
                    self.counts.mixed += 1;
                    self.complain(|| format!("{open} was answered with {answered:?}"));
                }
                Err(e) => self.allowed("a lookup", Err(e)),
            }
        }
    }

    fn connects(&mut self, number: u16) {
        let (open, shut) = (address_of(number), nobody(number));
        for (open, shut) in [
            (IpAddr::from(open.0), IpAddr::from(shut.0)),
            (open.1.into(), shut.1.into()),
        ] {
            self.counts.attempts[0] += 1;
            self.allowed("a connect", greeting(open));
            self.counts.attempts[1] += 2;
            self.denied("a connect", is_refused(&greeting(shut)));
            self.denied("a datagram", is_refused(&datagram(shut)));
        }
    }

    fn claims(&mut self, number: u16, round: u16) {
        let way = if round.is_multiple_of(2) {
            "tls"
        } else {
            "http"
        };
        let (v4, v6) = address_of(number);
        let address = if round & 2 == 0 {
            IpAddr::from(v4)
        } else {
            v6.into()
        };
        self.counts.attempts[0] += 1;
        let open = format!("n{number}.open.internal");
        self.allowed("a claim", claim(address, &client::claim_text(way, &open)));
        self.counts.attempts[1] += 1;
        let shut = format!("n{number}.shut.internal");
        let said = claim(address, &client::claim_text(way, &shut));
        let refused = said.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
        self.denied("a claim", refused);
    }

    fn fork(&mut self, number: u16) {
        let itself = std::env::current_exe().expect("the path of this program");
        let ended = Command::new(itself)
            .args(["breeze", &number.to_string()])
            .status()
            .expect("start a breeze");
        self.counts.processes += 1;
        self.counts.attempts[0] += 1;
        self.counts.attempts[1] += 1;
        let code = ended.code().unwrap_or(1);
        let good = if code & 1 == 0 {
            Ok(())
        } else {
            Err(io::Error::other("the process says so"))
        };
        self.allowed("a breeze", good);
        self.denied("a breeze", code & 2 == 0);
    }
}

fn preempted() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

fn is_refused(outcome: &io::Result<()>) -> bool {
    matches!(outcome, Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}

fn greeting(address: IpAddr) -> io::Result<()> {
    greeted(TcpStream::connect((address, PORT))?)
}

fn greeted(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = [0; 5];
    stream.read_exact(&mut said)?;
    if said == *b"hello" {
        Ok(())
    } else {
        Err(io::Error::other("another greeting"))
    }
}

fn claim(address: IpAddr, text: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect((address, CLAIMS))?;
    stream.write_all(text)?;
    greeted(stream)
}

fn datagram(address: IpAddr) -> io::Result<()> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.send_to(b"a datagram", SocketAddr::new(address, 9))?;
    Ok(())
}

/// A query (RFC 1035, 4).
fn question(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut octets = id.to_be_bytes().to_vec();
    octets.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        octets.push(u8::try_from(label.len()).expect("short labels"));
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets.extend(qtype.to_be_bytes());
    octets.extend([0, 1]);
    octets
}

/// The address in the answer with this id. Others come too: the final answers to what was refused.
fn answer(socket: &UdpSocket, id: u16) -> io::Result<Vec<IpAddr>> {
    let mut octets = [0; 512];
    loop {
        let size = socket.recv(&mut octets)?;
        let octets = &octets[..size];
        if octets.len() < 12 || octets[..2] != id.to_be_bytes() {
            continue;
        }
        if octets[3] & 15 != 0 {
            return Err(io::Error::other(format!("answer code {}", octets[3] & 15)));
        }
        // The one record stands last, and its data last in it.
        let v6: Option<[u8; 16]> = octets.last_chunk().copied();
        let v4: Option<[u8; 4]> = octets.last_chunk().copied();
        let long = octets.len() > 18 && octets[octets.len() - 18..][..2] == [0, 16];
        return Ok(match (v4, v6) {
            (_, Some(v6)) if long => vec![v6.into()],
            (Some(v4), _) => vec![v4.into()],
            _ => Vec::new(),
        });
    }
}
