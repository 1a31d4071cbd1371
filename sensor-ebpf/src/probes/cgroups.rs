//! Cgroups as they come and go: what each is called, learnt before anybody asks.
//!
//! An event names a cgroup by its id. When a container is killed its group is soon gone, and then
//! nothing on the host knows what the id was. So the path is written down when the group is made, and
//! user space keeps it for a while after it is gone.
//!
//! `cgroup_mkdir` and `cgroup_rmdir` (kernel/cgroup/cgroup.c) fire for every hierarchy; only the one
//! that memory is charged to counts. They have a ring buffer of their own, so that whoever makes groups
//! in a loop pushes out no OOM kill, and they wake nobody: user space looks several times a second.

use core::mem::offset_of;

use crate::{
    layout,
    spec::{Arg, ArgType, Field, Metric, Need, Probe, Program, Shape, Unit},
};

/// The group, and the hierarchy that it is in.
const FIELDS: [Field; 7] = {
    let [a, b, c, d, e, f] = layout::CGROUP_OF_TASK;
    [layout::CGROUP_ROOT, a, b, c, d, e, f]
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "cgroups",
    about: "names of cgroups as they are made, so that a kill in one that is gone still has a name",
    programs: &[
        Program {
            name: "cgroup_made",
            event: "cgroup:cgroup_mkdir",
            args: &[
                Arg { param: "cgrp", global: "ARG_MADE_CGROUP", ty: ArgType::Ptr("cgroup") },
                Arg { param: "path", global: "ARG_MADE_PATH", ty: ArgType::Ptr("char") },
            ],
            one_of: &[],
            fields: &FIELDS,
            need: Need::Required,
        },
        Program {
            name: "cgroup_gone",
            event: "cgroup:cgroup_rmdir",
            args: &[Arg { param: "cgrp", global: "ARG_GONE_CGROUP", ty: ArgType::Ptr("cgroup") }],
            one_of: &[],
            fields: &FIELDS,
            need: Need::Required,
        },
    ],
    metrics: &[
        Metric {
            name: "cgroups_created",
            unit: Unit::None,
            help: "Cgroups made in the hierarchy that memory is charged to",
            shape: Shape::Counter { at: offset_of!(State, made) / 8 },
            labels: &[],
        },
        Metric {
            name: "cgroups_removed",
            unit: Unit::None,
            help: "Cgroups removed from the hierarchy that memory is charged to",
            shape: Shape::Counter { at: offset_of!(State, gone) / 8 },
            labels: &[],
        },
    ],
};

#[repr(C)]
struct State {
    made: u64,
    gone: u64,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{
        helpers::generated::bpf_probe_read_kernel_str,
        macros::{map, raw_tracepoint},
        maps::RingBuf,
        programs::RawTracePointContext,
    };

    use super::State;
    use crate::{
        bpf::{
            args,
            count::{lost, row},
            read::{Probed, read},
            task,
        },
        event::{CgroupGone, CgroupMade, PATH, Tag},
        layout::OFF_CGROUP_ROOT,
        loss::Loss,
        probes::Id,
    };

    args::arg_global!(ARG_MADE_CGROUP, ARG_MADE_PATH, ARG_GONE_CGROUP);

    /// About 470 groups made between two looks of user space.
    #[map]
    static CGROUPS: RingBuf = RingBuf::with_byte_size(128 * 1024, 0);

    /// BPF_RB_NO_WAKEUP.
    const QUIETLY: u64 = 1;

    /// Whether memory can be charged to it: its hierarchy is the one of the group that the current task's
    /// memory is charged to.
    #[inline(always)]
    fn charges_memory(cgroup: u64) -> bool {
        let ours = task::memory_cgroup::<Probed>(task::current());
        read::<u64>(cgroup, &OFF_CGROUP_ROOT) == read::<u64>(ours, &OFF_CGROUP_ROOT)
    }

    #[raw_tracepoint(tracepoint = "cgroup_mkdir")]
    fn cgroup_made(ctx: RawTracePointContext) -> u32 {
        let cgroup = args::get(&ctx, &ARG_MADE_CGROUP);
        if !charges_memory(cgroup) {
            return 0;
        }
        // SAFETY: State is repr(C) and u64 only.
        if let Some(row) = unsafe { row::<State>(Id::cgroups as u32) } {
            row.made += 1;
        }
        let Some(mut entry) = CGROUPS.reserve::<CgroupMade>(0) else {
            lost(Loss::CgroupNamesFull);
            return 0;
        };
        let made = entry.as_mut_ptr();
        // SAFETY: `made` is the reserved record, larger than a stack, so it is written in place; the
        // helper ends the path within PATH bytes and checks the kernel's address itself. What it leaves
        // as it was is of records before.
        unsafe {
            (*made).tag = Tag::CgroupMade as u32;
            (*made).id = task::cgroup_id::<Probed>(cgroup);
            let path = args::get(&ctx, &ARG_MADE_PATH);
            let len = bpf_probe_read_kernel_str(
                (&raw mut (*made).path).cast(),
                PATH as u32,
                path as *const _,
            );
            (*made).path_len = len as u32;
        }
        entry.submit(QUIETLY);
        0
    }

    #[raw_tracepoint(tracepoint = "cgroup_rmdir")]
    fn cgroup_gone(ctx: RawTracePointContext) -> u32 {
        let cgroup = args::get(&ctx, &ARG_GONE_CGROUP);
        if !charges_memory(cgroup) {
            return 0;
        }
        // SAFETY: State is repr(C) and u64 only.
        if let Some(row) = unsafe { row::<State>(Id::cgroups as u32) } {
            row.gone += 1;
        }
        match CGROUPS.reserve::<CgroupGone>(0) {
            Some(mut entry) => {
                let id = task::cgroup_id::<Probed>(cgroup);
                entry.write(CgroupGone { tag: Tag::CgroupGone as u32, unused: 0, id });
                entry.submit(QUIETLY);
            }
            None => lost(Loss::CgroupNamesFull),
        }
        0
    }
}
