//! A thread that makes one video after the other.

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use longcat_media::{Decoder, ReadOptions, VideoReader};
use longcat_partial::Partial;

use crate::app::App;
use crate::hub::{Watch, What};
use crate::store::{Status, Video};
use crate::studio::{JobFiles, MakeError, Maker, Order};

/// Pixels of the longer side of a thumbnail.
const THUMBNAIL: u32 = 320;
/// How long a worker waits for work before it looks by itself, and for a database that fails.
const PAUSE: Duration = Duration::from_secs(1);

/// Wakes workers.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<()>,
    condition: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.condition.notify_all();
    }

    fn wait(&self) {
        let guard = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        // Waking for nothing does no harm.
        drop(self.condition.wait_timeout(guard, PAUSE));
    }
}

/// Works until the server stops.
pub(crate) fn work(app: &Arc<App>, number: usize) {
    let mut maker = None;
    while !app.is_ending() {
        let follow = |id: &str| Watch::new(id, app.data.files(id), app.hub.clone());
        match app.store.begin(follow) {
            Ok(Some((video, watch))) => make(app, number, &mut maker, &video, &watch),
            Ok(None) => app.bell.wait(),
            Err(error) => {
                app.note(&error.to_string());
                sleep(PAUSE);
            }
        }
    }
    // A maker that breaks while it goes must not keep the others from ending.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(maker)));
}

fn make(
    app: &Arc<App>,
    number: usize,
    maker: &mut Option<Box<dyn Maker>>,
    video: &Video,
    watch: &Watch,
) {
    let files = app.data.files(&video.id);
    app.hub.tell(&video.id, What::Status);
    // What an earlier run of the job was writing when its server ended.
    longcat_partial::sweep_folder(files.folder(), "");
    let begun = Instant::now();
    let made = catch_unwind(AssertUnwindSafe(|| {
        let adapters = app.library.order(&video.settings.adapters);
        let order = Order {
            settings: video.settings.clone(),
            adapters: adapters.map_err(|refusal| MakeError::Invalid(refusal.message))?,
            files: files.clone(),
        };
        let maker = match &mut *maker {
            Some(maker) => maker,
            none => none.insert(app.studio.worker(number)?),
        };
        maker.make(&order, watch)?;
        finish(&files)
    }));
    let broken = match &made {
        Ok(Ok(())) => false,
        Ok(Err(error)) => error.breaks(),
        Err(_) => true,
    };
    if broken {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(maker.take())));
    }
    let fault = matches!(&made, Ok(Err(error)) if error.breaks());
    let stopped = matches!(made, Ok(Err(MakeError::Cancelled))) && !watch.is_unwanted();
    if !stopped {
        // Who learns that it has ended finds it counted.
        app.metrics.ended(&made, begun.elapsed());
    }
    keep(app, || match &made {
        Ok(_) if stopped => app.store.put_back(&video.id),
        Ok(result) => app.store.end(&video.id, result),
        Err(panic) => {
            let message = format!(
                "the program failed in an unexpected way: {}",
                words(&**panic)
            );
            app.store
                .finish(&video.id, Status::Failed, Some(("panic", &message)))
        }
    });
    if !stopped {
        // It tells nothing of a job that has ended.
        let _ = fs::remove_file(files.preview());
    }
    watch.end();
    if fault && !app.studio.outlives_faults() {
        app.note(
            "a device failed: this process ends when its jobs have ended, and another goes on",
        );
        app.broken.store(true, Ordering::SeqCst);
        app.bell.ring();
    }
    app.hub.tell(&video.id, What::Status);
}

/// Writes down how a job ended, however long that takes: a full disk can be emptied.
fn keep(app: &Arc<App>, write: impl Fn() -> Result<(), crate::ServeError>) {
    while let Err(error) = write() {
        app.note(&error.to_string());
        if app.hub.is_stopping() {
            // The next start finds the file, or makes it again.
            return;
        }
        sleep(PAUSE);
    }
}

/// What is done once a video is there.
pub(crate) fn finish(files: &JobFiles) -> Result<(), MakeError> {
    let failed = |error: &dyn ToString| MakeError::Failed(error.to_string());
    let options = ReadOptions {
        // What was written here needs no other program.
        decoder: Decoder::Bundled,
        ..ReadOptions::default()
    };
    let mut reader = VideoReader::open(&files.video(), &options).map_err(|error| failed(&error))?;
    let size = reader.size();
    let frame = reader.next_frame().map_err(|error| failed(&error))?;
    let Some(frame) = frame else {
        return Err(MakeError::Failed("the video has no frames".into()));
    };
    // It has nothing to tell once there is a video.
    let _ = fs::remove_file(files.preview());
    // A video without its thumbnail is still one.
    let _ = write_thumbnail(files, size.width as u32, size.height as u32, frame.pixels);
    Ok(())
}

fn write_thumbnail(
    files: &JobFiles,
    width: u32,
    height: u32,
    pixels: Vec<u8>,
) -> Result<(), image::ImageError> {
    let Some(picture) = image::RgbImage::from_raw(width, height, pixels) else {
        return Ok(());
    };
    let picture = image::DynamicImage::from(picture);
    let small = match width.max(height) > THUMBNAIL {
        true => picture.thumbnail(THUMBNAIL, THUMBNAIL),
        false => picture,
    };
    let partial = Partial::new(&files.thumbnail());
    small.save_with_format(partial.path(), image::ImageFormat::Jpeg)?;
    partial.finish()?;
    Ok(())
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it did not say why")
}
