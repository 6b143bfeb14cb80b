//! LongCat-Video on Burn: pipelines, scheduler, checkpoints and video files.
