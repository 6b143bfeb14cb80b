//! Video and image files.
