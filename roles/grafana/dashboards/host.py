"""The machine under any node: processor, memory, disks, network, services."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from library import ANSWERS, USED_RATIO, ZERO_IS_WELL, bars, board, choice, figure, lines

NODE = 'cluster="$cluster", instance="$node"'


def build() -> dashboard.Dashboard:
    return (
        board("host", "Host", "The machine under one node.",
              choice("node", "Node", 'label_values(pgfleet:inventory:node{cluster="$cluster"}, instance)'))
        .with_row(dashboard.Row("Now"))
        .with_panel(figure(
            "Host", "Whether node_exporter answers.", f'pgfleet:node:target_up{{job="node_exporter", {NODE}}}', "none", words=ANSWERS))
        .with_panel(figure(
            "Up for", "Time since the machine booted.", f"time() - pgfleet:node:boot_time_seconds{{{NODE}}}", "s"))
        .with_panel(figure(
            "CPU", "Share of all processors in use.", f"pgfleet:node:cpu_used:ratio1m{{{NODE}}}", "percentunit", steps=USED_RATIO))
        .with_panel(figure(
            "Memory", "Share that is not available to new programs.",
            f"pgfleet:node:memory_used:ratio{{{NODE}}}", "percentunit", steps=USED_RATIO))
        .with_panel(figure(
            "Fullest file system", "Share in use of the file system with least room.",
            f"max(pgfleet:node:filesystem_used:ratio{{{NODE}}})", "percentunit", steps=USED_RATIO))
        .with_panel(figure(
            "Failed services", "systemd units that have failed.",
            f"sum(pgfleet:node:service_failed{{{NODE}}})", "none", steps=ZERO_IS_WELL))

        .with_row(dashboard.Row("Processor and memory"))
        .with_panel(lines(
            "CPU by mode", "Where the processors spend their time, idle aside.",
            "percentunit", (f'pgfleet:node:cpu_mode:ratio1m{{{NODE}, mode!="idle"}}', "{{mode}}"), stacked=True, maximum=1, width=8))
        .with_panel(lines(
            "Load", "Runnable and disk-waiting processes over one minute, beside the number of processors.",
            "none", (f"pgfleet:node:load1{{{NODE}}}", "load"), (f"pgfleet:node:cpus{{{NODE}}}", "processors"), width=8))
        .with_panel(lines(
            "Available memory", "What new programs can have, of all there is.",
            "bytes", (f"pgfleet:node:memory_available_bytes{{{NODE}}}", "available"),
            (f"pgfleet:node:memory_size_bytes{{{NODE}}}", "size"), width=8))

        .with_row(dashboard.Row("Disks"))
        .with_panel(bars(
            "File systems", "Share in use.", f"pgfleet:node:filesystem_used:ratio{{{NODE}}}", "{{mountpoint}}", "percentunit",
            steps=USED_RATIO, width=8))
        .with_panel(lines(
            "Room", "Bytes available on each file system.",
            "bytes", (f"pgfleet:node:filesystem_available_bytes{{{NODE}}}", "{{mountpoint}}"), width=8))
        .with_panel(lines(
            "Hours until full", "At the pace of the last hour. No value for a file system that is not filling.",
            "h", (f"pgfleet:node:filesystem_full_hours{{{NODE}}} < 720", "{{mountpoint}}"),
            steps=[(None, "red"), (4, "orange"), (24, "green")], width=8))
        .with_panel(lines(
            "Throughput", "Bytes per second, all disks.",
            "Bps", (f"pgfleet:node:disk_read_bytes:rate1m{{{NODE}}}", "read"),
            (f"pgfleet:node:disk_written_bytes:rate1m{{{NODE}}}", "written")))
        .with_panel(lines(
            "Busy", "Share of time in which the busiest disk had work.",
            "percentunit", (f"pgfleet:node:disk_busy:ratio1m{{{NODE}}}", "busiest disk"), maximum=1))

        .with_row(dashboard.Row("Network and services"))
        .with_panel(lines(
            "Network", "Bytes per second, loopback aside.",
            "Bps", (f"pgfleet:node:network_received_bytes:rate1m{{{NODE}}}", "received"),
            (f"pgfleet:node:network_sent_bytes:rate1m{{{NODE}}}", "sent")))
        .with_panel(lines(
            "Scrape time", "How long each exporter of this node takes to answer.",
            "s", (f"pgfleet:node:scrape_duration_seconds{{{NODE}}}", "{{job}}")))
    )
