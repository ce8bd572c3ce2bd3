//! The resources that the process uses, from the operating system and the runtime.

use std::time::Duration;

use procfs::{
    Current as _, LoadAverage, Meminfo, ProcResult, WithCurrentSystemInfo as _,
    process::{LimitValue, Process as Proc},
};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    time::{self, Instant},
};

/// How long the use of CPU is watched to compute its current value.
const SAMPLE: Duration = Duration::from_millis(200);

/// Figures of the process and its host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Number of CPUs in use right now.
    pub cpu_now: f64,
    /// CPU time since the start.
    pub cpu_total: Duration,
    /// Memory in use, in bytes.
    pub resident: u64,
    /// The largest amount of memory ever in use.
    pub resident_peak: Option<u64>,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Limit of file descriptors; `None` if there is no limit.
    pub descriptor_limit: Option<u64>,
    /// Threads of the operating system.
    pub threads: u64,
    /// Load of the host, over 1, 5 and 15 minutes.
    pub load: [f32; 3],
    /// Memory of the host: available, and in all.
    pub host_memory: (u64, u64),
    /// CPUs of the host.
    pub cpus: usize,
}

/// Figures of the runtime that runs all tasks.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    /// Threads that run tasks.
    pub workers: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Tasks that could run and wait for a worker.
    pub queued: usize,
    /// Share of the last moment in which the workers were busy, 0 to 1.
    pub busy: f64,
}

/// Looks twice, with a moment in between.
pub async fn look() -> (ProcResult<Process>, Runtime) {
    let began = Instant::now();
    let before = cpu_time();
    let busy_before = busy();
    time::sleep(SAMPLE).await;
    let elapsed = began.elapsed().as_secs_f64();
    let metrics = Handle::current().metrics();
    let workers = metrics.num_workers();
    let spent = busy().saturating_sub(busy_before).as_secs_f64();
    let runtime = Runtime {
        workers,
        tasks: metrics.num_alive_tasks(),
        queued: metrics.global_queue_depth(),
        busy: (spent / elapsed / workers.max(1) as f64).clamp(0.0, 1.0),
    };
    (before.and_then(|before| figures(before, elapsed)), runtime)
}

fn figures(before: Duration, elapsed: f64) -> ProcResult<Process> {
    let process = Proc::myself()?;
    let stat = process.stat()?;
    let status = process.status()?;
    let limit = process.limits()?.max_open_files.soft_limit;
    let load = LoadAverage::current()?;
    let memory = Meminfo::current()?;
    let cpu_total = cpu_time()?;
    Ok(Process {
        cpu_now: cpu_total.saturating_sub(before).as_secs_f64() / elapsed,
        cpu_total,
        resident: stat.rss_bytes().get(),
        resident_peak: status.vmhwm.map(|kilobytes| kilobytes * 1024),
        descriptors: process.fd_count()?,
        descriptor_limit: match limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        },
        threads: u64::try_from(stat.num_threads).unwrap_or_default(),
        load: [load.one, load.five, load.fifteen],
        host_memory: (memory.mem_available.unwrap_or(memory.mem_free), memory.mem_total),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// CPU time since the start, and the memory in use, in bytes.
pub fn usage() -> ProcResult<(Duration, u64)> {
    Ok((cpu_time()?, Proc::myself()?.stat()?.rss_bytes().get()))
}

/// User and system time of all threads.
fn cpu_time() -> ProcResult<Duration> {
    let stat = Proc::myself()?.stat()?;
    let ticks = (stat.utime + stat.stime) as f64;
    Ok(Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64))
}

/// How long the workers were busy, all together.
fn busy() -> Duration {
    let metrics = Handle::current().metrics();
    (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn figures_are_those_of_this_process() {
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let (figures, runtime) = look().await;
        let figures = figures.unwrap();
        assert!(figures.descriptors >= files.len(), "{figures:?}");
        assert!(figures.resident > 1_000_000 && figures.resident_peak.unwrap() >= figures.resident / 2);
        assert!(figures.threads >= 3 && figures.cpus >= 1);
        assert!(figures.host_memory.0 <= figures.host_memory.1);
        assert_eq!(runtime.workers, 2);
        assert!((0.0..=1.0).contains(&runtime.busy));
    }
}
