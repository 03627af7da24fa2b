//! Measures what capture does to a writer at full speed, and how far behind it runs.
//!
//! `cargo run --release -p sqlrep-capture --example measure -- [seconds] [key=value of writer.py ..]`
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use sqlrep_capture::{Cadence, LiveFile, Look, Options, Session};
use sqlrep_format::Timestamp;
use sqlrep_replica::DbId;
use sqlrep_spool::{DatabaseSpool, Limits, Spool};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The interval at which files are cut under load.
const CUT: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().unwrap_or_else(|| "10".to_owned());
    let options: Vec<String> = args.collect();
    let dir = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or_else(|_| "/tmp".into()))?;
    for round in 0..2 {
        let volume = dir.path().join(format!("alone{round}"));
        fs::create_dir(&volume)?;
        println!("a writer alone:");
        alone(&volume, &seconds, &options)?;
        println!("a writer that is followed:");
        follow_load(&dir.path().join(format!("load{round}")), &seconds, &options)?;
    }
    println!("a writer with pauses that is followed:");
    follow_calm(&dir.path().join("calm"), &options)
}

fn alone(volume: &Path, seconds: &str, options: &[String]) -> Result<()> {
    let (mut child, lines) = writer(&volume.join("db"), seconds, "0", options)?;
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        peak = peak.max(size(&volume.join("db-wal")));
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("  {}\n  WAL at most {} KiB", last(&lines), peak / 1024);
    Ok(())
}

fn writer(
    path: &Path,
    seconds: &str,
    pause: &str,
    options: &[String],
) -> Result<(Child, Receiver<String>)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/writer.py");
    let mut child = Command::new("python3")
        .arg(script)
        .args([path.as_os_str(), seconds.as_ref(), pause.as_ref()])
        .args(options)
        .stdout(Stdio::piped())
        .spawn()?;
    let out = BufReader::new(child.stdout.take().ok_or("no stdout")?);
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(std::result::Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    while lines.recv()? != "ready" {}
    Ok((child, lines))
}

fn open(volume: &Path) -> Result<(Session, DatabaseSpool)> {
    let state = volume.with_extension("state");
    let scratch = volume.with_extension("scratch");
    fs::create_dir_all(&scratch)?;
    let id = DbId::new("ns", "app", "vol", "db").map_err(|error| format!("{error:?}"))?;
    let spool = Spool::open(
        &state,
        Limits {
            bytes_max: 64 << 30,
        },
    )?
    .database(&id, "uid")?;
    let file = LiveFile::new(volume, "db")?;
    let mut options = Options::new(1, scratch);
    if let Ok(bytes) = std::env::var("SOFT") {
        options.wal_soft_bytes = bytes.parse()?;
    }
    let session = Session::open(&file, spool.clone(), options, now())?;
    Ok((session, spool))
}

fn follow_load(volume: &Path, seconds: &str, options: &[String]) -> Result<()> {
    fs::create_dir(volume)?;
    let (mut child, lines) = writer(&volume.join("db"), seconds, "0", options)?;
    let (mut session, spool) = open(volume)?;
    session.start(now())?;
    let before = cpu();
    let (mut peak, mut turns, mut steps, mut checkpoints, mut frames) = (0, 0_u64, 0_u64, 0, 0_u64);
    let mut last_cut = Instant::now();
    while child.try_wait()?.is_none() {
        turns += 1;
        if turns.is_multiple_of(8) {
            peak = peak.max(size(&volume.join("db-wal")));
        }
        if session.look()? == Look::New {
            frames += u64::from(session.step()?.frames);
            steps += 1;
        }
        if session.checkpoint()?.is_some() {
            checkpoints += 1;
        }
        if last_cut.elapsed() >= CUT {
            session.cut(now())?;
            last_cut = Instant::now();
        }
        std::thread::sleep(session.pause());
    }
    session.step()?;
    session.cut(now())?;
    let used = cpu() - before;
    let bytes: u64 = spool.pending().iter().map(|entry| entry.bytes).sum();
    println!("  {}", last(&lines));
    println!(
        "  WAL at most {} KiB; {turns} turns, {steps} steps, {frames} frames, {checkpoints} \
         checkpoints of ours; {used:.2} s of CPU; {} files, {} KiB in the spool",
        peak / 1024,
        spool.pending().len(),
        bytes / 1024
    );
    Ok(())
}

fn follow_calm(volume: &Path, options: &[String]) -> Result<()> {
    fs::create_dir(volume)?;
    let (mut child, lines) = writer(&volume.join("db"), "6", "60", options)?;
    let (mut session, _spool) = open(volume)?;
    session.start(now())?;
    let mut lags = Vec::new();
    let mut commits = Vec::new();
    while child.try_wait()?.is_none() {
        if session.look()? == Look::New {
            session.step()?;
            session.cut(now())?;
            let cut = unix(SystemTime::now());
            while let Ok(line) = lines.try_recv() {
                commits.extend(committed(&line));
            }
            lags.extend(commits.drain(..).map(|at: f64| (cut - at) * 1000.0));
        }
        std::thread::sleep(Cadence::LOOK * 5);
    }
    lags.sort_by(f64::total_cmp);
    let at = |share: usize| {
        lags.get(lags.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "  {} commits, each cut at once; from the commit to the file: p50 {:.1} ms, p99 {:.1} ms",
        lags.len(),
        at(50),
        at(99)
    );
    Ok(())
}

fn committed(line: &str) -> Option<f64> {
    line.strip_prefix("commit ")?.parse().ok()
}

fn last(lines: &Receiver<String>) -> String {
    lines.iter().last().unwrap_or_default()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |facts| facts.len())
}

/// Seconds of CPU that this process has used.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or_default()
    };
    (ticks(12) + ticks(13)) / 100.0
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
