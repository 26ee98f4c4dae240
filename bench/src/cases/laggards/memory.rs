//! The cost of stuck readers: memory of the node, and of the kernel for their sockets.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use crate::{
    report::Report,
    target::Target,
    usage::{Usage, kib, pss},
};

/// Memory at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub rss: u64,
    pub pss: u64,
    /// Of the kernel for all TCP sockets of the machine, including the ends of this program.
    pub sockets: u64,
}

/// Memory at three moments, and the bytes of the readers when they took no more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub before: Memory,
    /// All are connected, and nothing was published to them.
    pub connected: Memory,
    /// Their buffers are full.
    pub stuck: Memory,
    /// Bytes published for each.
    pub offered: u64,
    /// Bytes that the kernel has taken for each, at both ends: minimum and maximum.
    pub taken: (u64, u64),
    /// Full outboxes that sent one of them to the journal.
    pub lagged: u64,
}

// === impl Memory ===

impl Memory {
    /// Memory now; zeros where the system does not show it.
    pub(super) fn now(target: &Target) -> Self {
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        Self {
            rss: target.pid.and_then(Usage::of).map_or(0, |usage| usage.rss),
            pss: target.pid.and_then(pss).unwrap_or(0),
            sockets: socket_pages(&sockstat).unwrap_or(0) * page_bytes(),
        }
    }

    /// Reports the round with the highest cost.
    pub(super) fn put(report: &mut Report, readers: u32, rounds: &[Cost]) {
        let growth = |cost: &&Cost| cost.stuck.rss.saturating_sub(cost.before.rss);
        let Some(cost) = rounds.iter().max_by_key(growth) else { return };
        let Cost { before, connected, stuck, offered, taken, lagged } = cost;
        for (moment, memory) in [("Before", before), ("Connected", connected), ("Stuck", stuck)] {
            report.mib(format!("rss{moment}Mib"), Some(memory.rss), "MiB");
            report.mib(format!("pss{moment}Mib"), Some(memory.pss), "MiB");
            report.mib(format!("kernel{moment}Mib"), Some(memory.sockets), "MiB for sockets, both ends");
        }
        let each = |of: fn(&Self) -> u64| of(stuck).saturating_sub(of(before)) / u64::from(readers);
        report.put("rssBytesPerStuck", each(|memory| memory.rss), "B, in the round with the highest cost");
        report.put("pssBytesPerStuck", each(|memory| memory.pss), "B");
        report.put("kernelBytesPerStuck", each(|memory| memory.sockets), "B, both ends");
        report.put("offeredBytesPerStuck", *offered, "B were published for each");
        report.put("takenBytesPerStuckMin", taken.0, "B that the kernel took for one");
        report.put("takenBytesPerStuckMax", taken.1, "B");
        report.put("outboxesFilled", *lagged, "times");
    }
}

/// Bytes in the kernel at both ends of each reader's connection; `None` if the system does not show them.
pub(super) fn queues(node: SocketAddr, readers: &HashSet<u16>) -> Option<Vec<u64>> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let mut sums: HashMap<u16, u64> = readers.iter().map(|port| (*port, 0)).collect();
    for (local, remote, sending, receiving) in table.lines().skip(1).filter_map(row) {
        // At the node's end the bytes that are sent but not received, at the reader's end those that are not read.
        let (reader, bytes) = if local == node.port() {
            (remote, sending)
        } else if remote == node.port() {
            (local, receiving)
        } else {
            continue;
        };
        if let Some(sum) = sums.get_mut(&reader) {
            *sum += bytes;
        }
    }
    Some(sums.into_values().collect())
}

/// Ports and queues of a row of `/proc/net/tcp`, if its connection is established and within this machine.
fn row(line: &str) -> Option<(u16, u16, u64, u64)> {
    const ESTABLISHED: &str = "01";
    let fields: Vec<&str> = line.split_whitespace().take(5).collect();
    let [_, local, remote, ESTABLISHED, queues] = fields[..] else { return None };
    let port = |address: &str| {
        let (ip, port) = address.split_once(':')?;
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        u16::from_str_radix(port, 16).ok().filter(|_| ip.is_loopback())
    };
    let (sending, receiving) = queues.split_once(':')?;
    let bytes = |hex| u64::from_str_radix(hex, 16).ok();
    Some((port(local)?, port(remote)?, bytes(sending)?, bytes(receiving)?))
}

/// The page size of the kernel.
fn page_bytes() -> u64 {
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    kib(&mappings, "KernelPageSize:").unwrap_or(4096)
}

/// Pages of all TCP sockets.
fn socket_pages(sockstat: &str) -> Option<u64> {
    let mut fields = sockstat.lines().find(|line| line.starts_with("TCP:"))?.split_whitespace();
    fields.find(|field| *field == "mem")?;
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let text = "sockets: used 29\nTCP: inuse 3 orphan 0 tw 0 alloc 3 mem 17\nUDP: inuse 0 mem 5\n";
        assert_eq!(socket_pages(text), Some(17));
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        let line = |state: &str| {
            format!("   1: {loopback:08X}:1F90 {loopback:08X}:C000 {state} 00000400:00000010 00:00000000")
        };
        assert_eq!(row(&line("01")), Some((8080, 0xC000, 1024, 16)));
        assert_eq!(row(&line("06")), None, "it has ended");
        assert_eq!(row("  sl  local_address rem_address   st tx_queue rx_queue"), None);
    }
}
