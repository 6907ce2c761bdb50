//! Limits of a job, as settings name them.

use serde::Deserialize;

use crate::types::JobLimits;

/// Limits of a job; 0 is none at all.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Wall-clock time, milliseconds.
    pub wall_ms: Option<u64>,
    /// CPU time of the tree, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Memory of the tree, bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads alive at once.
    pub processes: Option<u32>,
    /// Output of all streams, bytes.
    pub output_bytes: Option<u64>,
    /// Largest file written, bytes.
    pub file_size_bytes: Option<u64>,
    /// Open files a process.
    pub open_files: Option<u32>,
}

impl Limits {
    /// These, and where they say nothing, the general ones.
    #[must_use]
    pub fn or(self, general: Self) -> Self {
        Self {
            wall_ms: self.wall_ms.or(general.wall_ms),
            cpu_ms: self.cpu_ms.or(general.cpu_ms),
            memory_bytes: self.memory_bytes.or(general.memory_bytes),
            processes: self.processes.or(general.processes),
            output_bytes: self.output_bytes.or(general.output_bytes),
            file_size_bytes: self.file_size_bytes.or(general.file_size_bytes),
            open_files: self.open_files.or(general.open_files),
        }
    }
}

impl From<Limits> for JobLimits {
    fn from(limits: Limits) -> Self {
        Self {
            wall_ms: limits.wall_ms,
            cpu_ms: limits.cpu_ms,
            memory_bytes: limits.memory_bytes,
            processes: limits.processes,
            output_bytes: limits.output_bytes,
            file_size_bytes: limits.file_size_bytes,
            open_files: limits.open_files,
        }
    }
}
