//! Writers that do not wait for us.

use std::time::{Duration, Instant};

use super::*;

/// Python threads that write as fast as they can.
const WRITER: &str = "
import threading
def write(path, seed):
    rng = random.Random(seed)
    own = sqlite3.connect(path, isolation_level=None, timeout=10)
    auto = None
    while not globals().get('stop') and (seed == 0 or not globals().get('alone')):
        if auto != globals().get('auto', 1000):
            auto = globals().get('auto', 1000)
            own.execute('PRAGMA wal_autocheckpoint=%d' % auto)
        own.execute('BEGIN IMMEDIATE')
        for _ in range(rng.randint(1, 8)):
            if rng.random() < 0.5:
                own.execute('INSERT INTO t(v) VALUES(?)', (os.urandom(rng.randint(1, 2000)),))
            else:
                own.execute('UPDATE t SET v=? WHERE id=?', (os.urandom(300), rng.randint(1, 2000)))
        own.execute('COMMIT' if rng.random() < 0.9 else 'ROLLBACK')
stop = False
threads = []
";

fn start_writers(app: &mut App, bench: &Bench, count: u32) {
    app.run(WRITER);
    for seed in 0..count {
        app.run(&format!(
            "threads.append(threading.Thread(target=write, args=({:?}, {seed})))\n\
             threads[-1].start()",
            bench.path().display().to_string()
        ));
    }
}

fn stop_writers(app: &mut App) {
    app.run("stop = True\nfor thread in threads: thread.join()");
}

/// What was seen of a WAL.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The file at its largest, bytes.
    peak: u64,
    /// What was read of it, bytes.
    read: u64,
}

fn follow(bench: &mut Bench, session: &mut Session, time: Duration) -> Seen {
    let (begun, mut cut, mut seen) = (Instant::now(), Instant::now(), Seen::default());
    while begun.elapsed() < time {
        if session.look().unwrap() == Look::New {
            let step = session.step().unwrap();
            seen.read += u64::from(step.frames) * (24 + 4096);
        }
        session.checkpoint().unwrap();
        if cut.elapsed() > Duration::from_millis(150) {
            session.cut(bench.now()).unwrap();
            cut = Instant::now();
        }
        seen.peak = seen.peak.max(session.wal_file_bytes());
        std::thread::sleep(session.pause());
    }
    seen
}

/// Follows for two seconds, and until more was read than the WAL ever had: so it began anew. How large it
/// gets meanwhile is a matter of who gets the processor, and of the benchmarks.
fn follow_resets(bench: &mut Bench, session: &mut Session) {
    let (begun, mut all) = (Instant::now(), Seen::default());
    while begun.elapsed() < Duration::from_secs(2) || all.read <= all.peak {
        let seen = follow(bench, session, Duration::from_millis(200));
        all = Seen {
            peak: all.peak.max(seen.peak),
            read: all.read + seen.read,
        };
        assert!(begun.elapsed() < Duration::from_mins(2), "{all:?}");
    }
}

#[test]
fn the_wal_of_a_writer_at_full_speed_stays_small_and_nothing_is_lost() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    start_writers(&mut app, &bench, 1);
    let mut session = bench.session(); // while it writes
    follow_resets(&mut bench, &mut session);
    assert!(session.outgoing.sent_to() > 0, "fsyncs are waited for");
    stop_writers(&mut app);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_writer_that_never_checkpoints_is_stopped_for_a_moment_past_the_hard_limit() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    app.run("auto = 0");
    start_writers(&mut app, &bench, 1);
    let options = Options {
        wal_soft_bytes: 1 << 20,
        wal_hard_bytes: 6 << 20,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    follow_resets(&mut bench, &mut session);
    stop_writers(&mut app);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn the_wal_of_several_writers_begins_anew_past_the_hard_limit() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    start_writers(&mut app, &bench, 4);
    let options = Options {
        wal_soft_bytes: 500_000,
        wal_hard_bytes: 6 << 20,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    follow_resets(&mut bench, &mut session);
    stop_writers(&mut app);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn the_wal_that_several_writers_left_begins_anew_by_the_checkpoint_of_the_one_that_stays() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let options = Options {
        wal_soft_bytes: 500_000,
        wal_hard_bytes: 1 << 40,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    app.run("auto = 0");
    start_writers(&mut app, &bench, 3);
    let begun = Instant::now();
    while session.wal_bytes() < 8_000_000 {
        follow(&mut bench, &mut session, Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_mins(2), "it does not grow");
    }
    app.run("alone, auto = True, 100");
    follow_resets(&mut bench, &mut session);
    stop_writers(&mut app);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn three_writers_and_sessions_that_come_and_go_lose_nothing() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    start_writers(&mut app, &bench, 3);
    for turn in 0..6 {
        let mut session = bench.session();
        follow(&mut bench, &mut session, Duration::from_millis(150));
        if turn % 2 == 0 {
            session.cut(bench.now()).unwrap();
        }
        drop(session);
        std::thread::sleep(Duration::from_millis(20 * turn));
    }
    stop_writers(&mut app);
    let mut session = bench.session();
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_snapshot_taken_while_a_writer_runs_is_the_state_after_a_commit() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    app.insert(5000);
    start_writers(&mut app, &bench, 1);
    for turn in 0..5 {
        let mut session = bench.session();
        session.snapshot(bench.now()).unwrap();
        drop(session);
        let copy = bench.dir.path().join(format!("copy{turn}.db"));
        fs::write(&copy, bench.image()).unwrap();
        let mut reader = App::open(&copy, &[]);
        assert_eq!(reader.sql("PRAGMA integrity_check"), "[[\"ok\"]]");
    }
    stop_writers(&mut app);
    let mut session = bench.session();
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

/// One random history.
fn history(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new();
    let page_size = random.choice([512, 1024, 4096, 65_536]).unwrap();
    let mut app = App::with_page_size(&bench.path(), page_size);
    let auto = random.choice([0, 5, 1000]).unwrap();
    app.sql(&format!("PRAGMA wal_autocheckpoint={auto}"));
    let mut session = Some(bench.session());
    for _ in 0..60 {
        let id = random.u32(1..400);
        match random.u32(0..14) {
            0..=2 => app.insert(random.u32(1..60)),
            3 => drop(app.sql(&format!("DELETE FROM t WHERE id > {id}"))),
            4 => {
                let rest = id % 7;
                app.sql(&format!(
                    "UPDATE t SET v = randomblob(3000) WHERE id % 7 = {rest}"
                ));
            }
            5 => drop(app.sql("VACUUM")),
            6 => drop(app.checkpoint(random.choice(["PASSIVE", "FULL", "TRUNCATE"]).unwrap())),
            7 => {
                app.sql("BEGIN");
                app.sql("INSERT INTO t(v) VALUES(zeroblob(100000))");
                app.sql("DELETE FROM t WHERE length(v) = 100000");
                app.sql(random.choice(["COMMIT", "ROLLBACK"]).unwrap());
            }
            8 => session = None,
            9 => session = Some(session.take().unwrap_or_else(|| bench.session())),
            10 => drop(session.as_mut().map(|session| session.look().unwrap())),
            11 | 12 => drop(session.as_mut().map(|session| session.step().unwrap())),
            _ => drop(
                session
                    .as_mut()
                    .map(|session| session.cut(bench.now()).unwrap()),
            ),
        }
    }
    let mut session = session.unwrap_or_else(|| bench.session());
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

/// `SQLREP_SEED` replays one.
#[test]
#[expect(
    clippy::print_stderr,
    reason = "the harness shows it with a failure only"
)]
fn random_histories_add_up() {
    let seeds = match std::env::var("SQLREP_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..5).chain([fastrand::u64(..)]).collect(),
    };
    for seed in seeds {
        eprintln!("SQLREP_SEED={seed}");
        history(seed);
    }
}
