#![allow(clippy::unwrap_used, missing_docs)]
use std::time::Instant;
use std::ops::ControlFlow;
use burn::tensor::{Distribution, Tensor, module::{conv3d, conv2d}, ops::ConvOptions, activation::silu};
use burn_flex::{Flex, FlexDevice};
use longcat_vae::{VaeOptions, WanVae, WanVaeConfig};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<Flex, D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &FlexDevice)
}
fn time<T>(name: &str, mut f: impl FnMut() -> T) -> f64 {
    f();
    let mut best = f64::MAX;
    for _ in 0..3 { let t = cpu(); f(); best = best.min(cpu() - t); }
    println!("{name}: {:.1} cpu ms", best * 1e3);
    best
}
fn cpu() -> f64 {
    std::fs::read_dir("/proc/self/task").unwrap().map(|t| {
        let s = std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap();
        s.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
    }).sum()
}
fn kn2row(x: Tensor<Flex,5>, w: Tensor<Flex,5>, b: Tensor<Flex,1>) -> Tensor<Flex,5> {
    let [n,c,te,h,wd] = x.dims(); let [o,_,kt,kh,kw] = w.dims();
    let t = te - kt + 1;
    let x = x.pad([(0,0),(0,0),(0,0),(1,1),(1,1)], 0.0);
    let (hp, wp) = (h+2, wd+2);
    let z = w.permute([2,3,4,0,1]).reshape([kt*kh*kw*o, c]).matmul(x.reshape([c, te*hp*wp]));
    let len = t*hp*wp - 2*wp - 2;
    let mut y: Option<Tensor<Flex,2>> = None;
    for a in 0..kt { for r in 0..kh { for k in 0..kw {
        let part = z.clone().narrow(0, ((a*kh+r)*kw+k)*o, o).narrow(1, a*hp*wp + r*wp + k, len);
        y = Some(match y { Some(y) => y + part, None => part });
    }}}
    let y = y.unwrap().pad([(0,0),(0,2*wp+2)],0.0).reshape([n,o,t,hp,wp]).narrow(3,0,h).narrow(4,0,wd);
    y + b.reshape([1,o,1,1,1])
}
fn by_rows(x: Tensor<Flex,5>, w: Tensor<Flex,5>, b: Tensor<Flex,1>) -> Tensor<Flex,5> {
    // sum over 9 (kt,kh) of matmul with K = 3C (kw stacked)
    let [n,c,te,h,wd] = x.dims(); let [o,_,kt,kh,kw] = w.dims();
    let t = te - kt + 1;
    let x = x.pad([(0,0),(0,0),(0,0),(1,1),(1,1)], 0.0);
    let stacked = Tensor::cat((0..kw).map(|i| x.clone().narrow(4, i, wd)).collect(), 1); // [n, kw*c, te, h+2, w]
    let plane = (h+2)*wd;
    let stacked = stacked.reshape([n, kw*c, te*plane]);
    let mut y: Option<Tensor<Flex,3>> = None;
    let len = t*plane - 2*wd;
    for a in 0..kt { for r in 0..kh {
        let wt = w.clone().narrow(2,a,1).narrow(3,r,1).reshape([o,c,kw]).swap_dims(1,2).reshape([1,o,kw*c]);
        let part = wt.matmul(stacked.clone().narrow(2, a*plane + r*wd, len));
        y = Some(match y { Some(y) => y + part, None => part });
    }}
    let y = y.unwrap().pad([(0,0),(0,0),(0,2*wd)],0.0).reshape([n,o,t,h+2,wd]).narrow(3,0,h);
    y + b.reshape([1,o,1,1,1])
}
fn im2col(x: Tensor<Flex,5>, w: Tensor<Flex,5>, b: Tensor<Flex,1>, rows: usize) -> Tensor<Flex,5> {
    let [n,c,te,h,wd] = x.dims(); let [o,_,kt,kh,kw] = w.dims();
    let t = te - kt + 1;
    let x = x.pad([(0,0),(0,0),(0,0),(1,1),(1,1)], 0.0);
    let w = w.permute([0,2,3,4,1]).reshape([1,o,kt*kh*kw*c]);
    let mut out = vec![];
    for f in 0..t {
        let mut strips = vec![];
        let mut r0 = 0;
        while r0 < h {
            let rr = rows.min(h-r0);
            let mut taps = vec![];
            for a in 0..kt { for r in 0..kh { for k in 0..kw {
                taps.push(x.clone().narrow(2,f+a,1).narrow(3,r0+r,rr).narrow(4,k,wd));
            }}}
            let col = Tensor::cat(taps,1).reshape([n, kt*kh*kw*c, rr*wd]);
            strips.push(w.clone().matmul(col).reshape([n,o,1,rr,wd]));
            r0 += rr;
        }
        out.push(Tensor::cat(strips,3));
    }
    Tensor::cat(out,2) + b.reshape([1,o,1,1,1])
}
#[test]
#[ignore]
fn convs() {
    for (c, o, t, hw) in [(8,8,4,64),(16,16,4,64),(32,32,4,32),(8,8,4,256),(20,20,2,128),(96,96,4,64),(96,96,4,128),(384,384,1,32),(96,3,4,128),(3,96,4,128)] {
        println!("-- {c} -> {o}, {t} frames {hw}x{hw}: {:.2} GFLOP", 2.0*27.0*(c*o*t*hw*hw) as f64/1e9);
        let x = random([1,c,t+2,hw,hw]); let w = random([o,c,3,3,3]); let b = random([o]);
        let a = time("conv3d", || conv3d(x.clone(), w.clone(), Some(b.clone()), ConvOptions::new([1;3],[0,1,1],[1;3],1)));
        println!("   {:.1} GFLOP/s per core", 2.0*27.0*(c*o*t*hw*hw) as f64/1e9/a);
        let reference = conv3d(x.clone(), w.clone(), Some(b.clone()), ConvOptions::new([1;3],[0,1,1],[1;3],1));
        let check = |y: Tensor<Flex,5>| println!("   err {:.1e}", (y-reference.clone()).abs().max().into_scalar());
        time("conv2d of stacked frames", || {
            let frames = Tensor::cat((0..3).map(|k| x.clone().narrow(2,k,t)).collect(), 1).permute([0,2,1,3,4]).reshape([t,3*c,hw,hw]);
            let w = w.clone().swap_dims(1,2).reshape([o,3*c,3,3]);
            conv2d(frames, w, Some(b.clone()), ConvOptions::new([1;2],[1;2],[1;2],1)).reshape([1,t,o,hw,hw]).permute([0,2,1,3,4])
        });
        time("kn2row", || kn2row(x.clone(), w.clone(), b.clone()));
        check(kn2row(x.clone(), w.clone(), b.clone()));
        time("rows", || by_rows(x.clone(), w.clone(), b.clone()));
        check(by_rows(x.clone(), w.clone(), b.clone()));
        for rows in [16] { time(&format!("im2col {rows}"), || im2col(x.clone(), w.clone(), b.clone(), rows)); }
        check(im2col(x.clone(), w.clone(), b.clone(), 16));
    }
    println!("-- others, 16 channels, 4 frames, 256x256");
    let x = random([1,16,4,256,256]);
    time("silu", || silu(x.clone()));
    time("x*x", || x.clone()*x.clone());
    time("sum_dim", || x.clone().sum_dim(1));
    let g = random([1,16,1,1,1]); let n = random([1,1,4,256,256]);
    time("* gamma", || x.clone() * g.clone());
    time("/ norm", || x.clone() / n.clone());
    time("cat", || Tensor::cat(vec![x.clone().narrow(2,0,2), x.clone()], 2));
    time("pad", || x.clone().pad([(0,0),(0,0),(0,0),(0,1),(0,1)], 0.0));
    time("nearest", || burn::tensor::module::interpolate(x.clone().reshape([1,64,256,256]), [512,512], burn::tensor::ops::InterpolateOptions::new(burn::tensor::ops::InterpolateMode::Nearest)));
    time("nearest by expand", || x.clone().reshape([64,256,1,256,1]).expand([64,256,2,256,2]).reshape([1,64,512,512]));
}
#[test]
#[ignore]
fn clips() {
    for (base, size, frames) in [(8, 64, 17), (8, 256, 17), (32, 128, 9)] {
        let config = WanVaeConfig { base_dim: base, decoder_base_dim: base, ..WanVaeConfig::default() };
        let vae = WanVae::<Flex>::new(&config, &FlexDevice);
        let video = random([1,3,frames,size,size]);
        let latents = random([1,16,1+(frames-1)/4,size/8,size/8]);
        for chunk in [1, 2, 100] {
            let o = VaeOptions { latent_frames_per_chunk: chunk, tiling: None };
            println!("base {base} {size}px {frames} frames chunk {chunk}");
            let (t, k) = (Instant::now(), cpu()); vae.encode_with(video.clone(), &o, &mut |_| ControlFlow::Continue(())).unwrap(); println!("  encode {:.3} s, cpu {:.3} s", t.elapsed().as_secs_f64(), cpu() - k);
            let (t, k) = (Instant::now(), cpu()); vae.encode_with(video.clone(), &o, &mut |_| ControlFlow::Continue(())).unwrap(); println!("  encode {:.3} s, cpu {:.3} s", t.elapsed().as_secs_f64(), cpu() - k);
            let (t, k) = (Instant::now(), cpu()); vae.decode_with(latents.clone(), &o, &mut |_| ControlFlow::Continue(())).unwrap(); println!("  decode {:.3} s, cpu {:.3} s", t.elapsed().as_secs_f64(), cpu() - k);
            let (t, k) = (Instant::now(), cpu()); vae.decode_with(latents.clone(), &o, &mut |_| ControlFlow::Continue(())).unwrap(); println!("  decode {:.3} s, cpu {:.3} s", t.elapsed().as_secs_f64(), cpu() - k);
        }
    }
}
