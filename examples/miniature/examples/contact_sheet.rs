//! Writes a picture of samples, a row each: `contact_sheet OUT.png [SEED] [heart|held-out]`.

use std::env;
use std::error::Error;

use image::{Rgb, RgbImage};
use longcat_miniature::{DatasetOptions, Raster, Shape, ShapesDataset, Split};

const ROWS: usize = 16;
const COLUMNS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let output = arguments
        .first()
        .ok_or("usage: contact_sheet OUT.png [SEED] [heart|held-out]")?;
    let seed = arguments.get(1).map_or(Ok(0), |s| s.parse())?;
    let mut options = DatasetOptions::default();
    let mut split = Split::Train;
    match arguments.get(2).map(String::as_str) {
        Some("heart") => options.shapes = vec![Shape::Heart],
        Some("held-out") => split = Split::HeldOut,
        _ => {}
    }
    let raster = Raster::default();
    let (cell, side) = (raster.side + 2, raster.side);
    let mut sheet = RgbImage::new((COLUMNS * cell) as u32, (ROWS * cell) as u32);
    let samples = ShapesDataset::new(seed, split, options);
    for (row, sample) in samples.iter().take(ROWS).enumerate() {
        println!("{}", sample.caption);
        let clip = sample.render(&raster);
        let step = (raster.frames - 1) / (COLUMNS - 1);
        for (column, frame) in clip.frames().step_by(step).enumerate() {
            for (i, pixel) in frame.chunks_exact(3).enumerate() {
                let (x, y) = (column * cell + i % side, row * cell + i / side);
                sheet.put_pixel(x as u32, y as u32, Rgb([pixel[0], pixel[1], pixel[2]]));
            }
        }
    }
    sheet.save(output)?;
    Ok(())
}
