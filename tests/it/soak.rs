//! Load for a long time, with faults that a number decides: each round is judged, and in the end
//! the observer takes no more of anything than it did when it was warm.
//!
//! `scripts/soak` runs it for hours. In the suite it is a few rounds.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bed::{Broker, Observer, fresh_app};
use crate::clock::Shim;
use crate::faulty_line::{Carries, FaultyLine};
use crate::load::{Load, Path, Plan, users};
use crate::mixed::Mixed;

/// Messages in a round: six senders to six recipients, in two layouts.
const ROUND: usize = 6 * 6 * 2 * 5;
/// Rounds in the suite. In the first half the observer may be killed and stopped, in the second it
/// is one process, which is measured.
const ROUNDS: usize = 8;
/// A round takes this long at least, on average, or the run ends early: each message is made
/// before.
const SHORTEST: Duration = Duration::from_secs(2);
/// Rounds of the second half that may still warm it up.
const WARM_UP: usize = 2;

/// The store moves its write-ahead log into the database at 64 MiB at the latest.
const MOST_WAL_KIB: u64 = 72 << 10;

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    Freeze,
    BrokerRestart,
    BrokerKill,
    Cut,
    HalfClose,
    Slow,
    Late,
    Dead,
    DeadAndCut,
    Alarm,
    ClockJump,
    None,
}

const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Freeze,
    Fault::Cut,
    Fault::HalfClose,
    Fault::Slow,
    Fault::Late,
    Fault::Dead,
    Fault::DeadAndCut,
    Fault::Alarm,
    Fault::ClockJump,
    Fault::BrokerRestart,
    Fault::BrokerKill,
    Fault::None,
];

impl Fault {
    fn ends_process(self) -> bool {
        matches!(self, Self::Kill | Self::Stop)
    }
}

/// What the observer takes of the machine.
#[derive(Clone, Copy, Debug)]
struct Taken {
    resident_kib: usize,
    threads: usize,
    files: usize,
    wal_kib: u64,
    store_kib: u64,
}

impl Taken {
    fn by(observer: &Observer) -> Self {
        let pid = observer.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let kib = |name: &str| {
            let path = observer.state.path().join(name);
            std::fs::metadata(path).map_or(0, |file| file.len() / 1024)
        };
        Self {
            resident_kib: field("VmRSS:"),
            threads: field("Threads:"),
            files: std::fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .count(),
            wal_kib: kib("observer.db-wal"),
            store_kib: kib("observer.db"),
        }
    }

    /// The most of each.
    fn most(samples: &[Self]) -> Self {
        let most = |a: Self, b: &Self| Self {
            resident_kib: a.resident_kib.max(b.resident_kib),
            threads: a.threads.max(b.threads),
            files: a.files.max(b.files),
            wal_kib: a.wal_kib.max(b.wal_kib),
            store_kib: a.store_kib.max(b.store_kib),
        };
        samples.iter().fold(samples[0], most)
    }
}

struct Scene {
    broker: Broker,
    observer: Observer,
    line: FaultyLine,
    shim: Shim,
    rng: fastrand::Rng,
    /// The longest that a fault lasts, in milliseconds.
    longest: u64,
    _dir: TempDir,
}

impl Scene {
    fn start(broker: Broker, app: &str, longest: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let line = FaultyLine::to(broker.port("MQTT"));
        let url = line.url();
        let flags = ["--broker", &url, "--username", "observer", "--app", app];
        let more = ["--keep-alive", "5s", "--retain-size", "16MiB"];
        let mut scene = Self {
            broker,
            observer: Observer::prepare(&[&flags[..], &more].concat()),
            line,
            shim: Shim::make(dir.path()),
            rng: fastrand::Rng::new(),
            longest,
            _dir: dir,
        };
        scene.begin();
        scene
    }

    fn begin(&mut self) {
        let mut env = vec![("OBSERVER_PASSWORD", "observerpw")];
        env.extend(self.shim.environment());
        self.observer.spawn(&env);
        self.observer.wait_ready();
    }

    /// The fault of a round. In the second half nothing comes in place of one that ends the
    /// process: so all other rounds have the same faults, whenever that half begins.
    fn pick(&mut self, survives: bool) -> Fault {
        loop {
            let fault = FAULTS[self.rng.usize(..FAULTS.len())];
            if survives && fault.ends_process() {
                return Fault::None;
            }
            // Mosquitto has no alarms. It writes to its disk now and then, and a kill takes it what
            // it had not written.
            let is_rabbitmqs = [Fault::Alarm, Fault::BrokerKill].contains(&fault);
            if !is_rabbitmqs || self.broker.is_rabbitmq() {
                return fault;
            }
        }
    }

    /// So long does a fault last: in a long run less than a keep alive, or more.
    fn lasts(&mut self) {
        // Time is what the fault consists of.
        std::thread::sleep(Duration::from_millis(self.rng.u64(100..self.longest)));
    }

    fn happens(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => {
                self.observer.kill();
                self.begin();
            }
            Fault::Stop => {
                let (status, log) = self.observer.stop();
                assert!(status.success(), "{log}");
                self.begin();
            }
            Fault::Freeze => {
                self.observer.freeze();
                self.lasts();
                self.observer.thaw();
            }
            Fault::BrokerRestart => {
                self.broker.control("stop");
                self.broker.control("start");
            }
            Fault::BrokerKill => {
                self.broker.control("kill");
                self.broker.control("start");
            }
            Fault::Cut => self.line.cut(),
            Fault::HalfClose => {
                let to_broker = self.rng.bool();
                self.line.half_close(to_broker);
            }
            Fault::Slow => {
                let bytes = self.rng.usize(1..100);
                self.carries_for_a_while(Carries::Slowly(bytes));
            }
            Fault::Late => {
                let time = Duration::from_millis(self.rng.u64(1..400));
                self.carries_for_a_while(Carries::Late(time));
            }
            Fault::Dead => self.carries_for_a_while(Carries::Nothing),
            Fault::DeadAndCut => {
                self.line.carry(Carries::Nothing);
                self.lasts();
                self.line.cut();
                self.line.carry(Carries::All);
            }
            Fault::Alarm => {
                let alarm = self.broker.alarm();
                self.lasts();
                drop(alarm);
            }
            Fault::ClockJump => {
                let ahead = self.rng.i64(-100_000..100_000);
                self.shim.set(ahead);
                self.lasts();
                self.shim.set(0);
            }
            Fault::None => {}
        }
    }

    fn carries_for_a_while(&mut self, carries: Carries) {
        self.line.carry(carries);
        self.lasts();
        self.line.carry(Carries::All);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// `scripts/soak` asks for more time (SOAK_SECONDS) and other faults (SOAK_SEED).
fn soak(broker: Broker) {
    let time = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(0));
    let seed = number("SOAK_SEED").unwrap_or(1);
    let most_rounds = ROUNDS + usize::try_from(time.as_secs() / SHORTEST.as_secs()).unwrap();
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let mut scene = Scene::start(broker, &app, if time.is_zero() { 2_000 } else { 9_000 });
    let load_app = app.clone();
    let load = Load::start(Plan {
        broker,
        app,
        senders: users(0..6),
        recipients: users(6..12),
        paths: vec![Path::Inbox, Path::Chat21],
        per_pair: most_rounds * ROUND / 72,
        allowed: Some(0),
    });
    let mixed = Mixed::start(broker, &load_app);
    let began = Instant::now();
    let mut samples: Vec<Taken> = vec![];
    let mut round = 0;
    while round < most_rounds && (round < ROUNDS || began.elapsed() < time) {
        let survives = round >= ROUNDS / 2 && began.elapsed() >= time / 2;
        // So a round has the same faults, however long those before it took.
        scene.rng = fastrand::Rng::with_seed((seed << 32) + round as u64);
        let fault = scene.pick(survives);
        load.allow(round * ROUND + ROUND);
        load.wait_arrived(round * ROUND + ROUND / 4);
        scene.happens(fault);
        load.wait_arrived(round * ROUND + ROUND);
        let when = format!("seed {seed}, round {round}, {fault:?}");
        load.check(&when);
        mixed.check(&when);
        println!(
            "{broker:?}: round {round}, {fault:?}, {:.0?}",
            began.elapsed()
        );
        if survives {
            samples.push(Taken::by(&scene.observer));
        }
        round += 1;
    }
    let account = load.finish_at(round * ROUND);
    let beside = mixed.finish();
    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
    assert!(
        !samples.is_empty(),
        "no round began in the second half of the time: there is nothing to compare, more time is \
         needed"
    );
    let warm = &samples[WARM_UP.min(samples.len() - 1)..];
    let third = warm.len().div_ceil(3);
    let (first, last) = (&warm[..third], &warm[warm.len() - third..]);
    let (first, last) = (Taken::most(first), Taken::most(last));
    println!(
        "{broker:?}, seed {seed}: {round} rounds, {:?}, beside it {beside:?}, over {:.0?}; warm \
         {first:?}, in the end {last:?}",
        account.verdict,
        began.elapsed()
    );
    assert!(last.resident_kib < first.resident_kib * 5 / 4 + 8_192);
    assert!(last.threads <= first.threads + 1 && last.files <= first.files + 4);
    assert!(last.wal_kib < MOST_WAL_KIB && last.store_kib < 48 << 10);
}

#[test]
fn soak_on_rabbitmq3() {
    soak(Broker::Rabbit3);
}

#[test]
fn soak_on_rabbitmq4() {
    soak(Broker::Rabbit4);
}

#[test]
fn soak_on_mosquitto() {
    soak(Broker::Mosquitto);
}
