//! Figures of the process, its runtime and the host, from `/proc`.

use parking_lot::Mutex;
use procfs::{Current as _, CurrentSI as _, process::Process};
use tokio::runtime::Handle;

use super::{exposition::Exposition, families as f};

/// Processor time of the host: in use, and altogether.
#[derive(Debug, Clone, Copy, Default)]
struct CpuTime {
    busy: u64,
    total: u64,
}

/// The host's processor time at the last look, to compute its use since.
#[derive(Debug, Default)]
pub(super) struct Host(Mutex<(CpuTime, f64)>);

impl Host {
    /// Use of the processor in per cent since the last look; since the host's start at the first look.
    fn cpu_util(&self) -> Option<f64> {
        let cpu = procfs::KernelStats::current().ok()?.total;
        let idle = cpu.idle + cpu.iowait.unwrap_or(0);
        let parts = [cpu.user, cpu.nice, cpu.system, cpu.irq.unwrap_or(0), cpu.softirq.unwrap_or(0)];
        let busy = parts.iter().sum::<u64>() + cpu.steal.unwrap_or(0);
        let now = CpuTime { busy, total: busy + idle };
        let mut last = self.0.lock();
        let total = now.total.saturating_sub(last.0.total);
        if total > 0 {
            let util = 100.0 * now.busy.saturating_sub(last.0.busy) as f64 / total as f64;
            *last = (now, util);
        }
        Some(last.1)
    }

    /// Writes the host's figures. Those that it does not tell are left out.
    pub(super) fn write(&self, out: &mut Exposition) {
        if let Some(util) = self.cpu_util() {
            out.family(&f::CPU_UTIL).add(&[], util);
        }
        if let Ok(load) = procfs::LoadAverage::current() {
            // The reference uses Erlang's unit.
            out.family(&f::CPU_AVG1).add(&[], f64::from(load.one) * 256.0);
            out.family(&f::CPU_AVG5).add(&[], f64::from(load.five) * 256.0);
            out.family(&f::CPU_AVG15).add(&[], f64::from(load.fifteen) * 256.0);
        }
        if let Ok(memory) = procfs::Meminfo::current()
            && let Some(available) = memory.mem_available
        {
            let used = memory.mem_total.saturating_sub(available);
            out.family(&f::RAM_USAGE).add(&[], 100.0 * used as f64 / memory.mem_total as f64);
        }
    }
}

/// Writes the figures of this process.
pub(super) fn process(out: &mut Exposition) {
    let Ok(process) = Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let ticks = procfs::ticks_per_second() as f64;
        out.family(&f::PROCESS_CPU).add(&[], (stat.utime + stat.stime) as f64 / ticks);
        out.family(&f::PROCESS_RESIDENT).add(&[], (stat.rss * procfs::page_size()) as f64);
        out.family(&f::PROCESS_VIRTUAL).add(&[], stat.vsize as f64);
        out.family(&f::PROCESS_THREADS).add(&[], stat.num_threads as f64);
        if let Ok(boot) = procfs::boot_time_secs() {
            out.family(&f::PROCESS_START).add(&[], boot as f64 + stat.starttime as f64 / ticks);
        }
    }
    if let Ok(count) = process.fd_count() {
        out.family(&f::PROCESS_FDS).add(&[], count as f64);
    }
    if let Ok(limits) = process.limits()
        && let procfs::process::LimitValue::Value(max) = limits.max_open_files.soft_limit
    {
        out.family(&f::PROCESS_MAX_FDS).add(&[], max as f64);
    }
}

/// Writes the figures of the runtime. Does nothing outside of one.
pub(super) fn runtime(out: &mut Exposition) {
    let Ok(handle) = Handle::try_current() else { return };
    let metrics = handle.metrics();
    let workers = metrics.num_workers();
    out.family(&f::TOKIO_WORKERS).add(&[], workers as f64);
    out.family(&f::TOKIO_TASKS).add(&[], metrics.num_alive_tasks() as f64);
    out.family(&f::TOKIO_QUEUE).add(&[], metrics.global_queue_depth() as f64);
    let mut busy = out.family(&f::TOKIO_BUSY);
    for worker in 0..workers {
        busy.add(&[&worker.to_string()], metrics.worker_total_busy_duration(worker).as_secs_f64());
    }
    let mut parks = out.family(&f::TOKIO_PARKS);
    for worker in 0..workers {
        parks.add(&[&worker.to_string()], metrics.worker_park_count(worker) as f64);
    }
}
