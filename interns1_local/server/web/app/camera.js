// A picture from the camera.

import { dialog, h } from './dom.js';
import { t } from './language.js';

export async function takePicture(taken, notice) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: { ideal: 1920 } } });
  } catch (error) {
    notice(t('no_camera', { reason: error?.message || t('camera_needs_https') }));
    return;
  }
  const video = h('video', { srcObject: stream, autoplay: true, playsinline: true, muted: true, 'aria-label': t('camera') });
  const shoot = h('button', { type: 'button', class: 'primary' }, t('take_picture'));
  const box = dialog(t('camera'), h('div', { class: 'camera' }, video, shoot));
  box.addEventListener('close', () => stream.getTracks().forEach((track) => track.stop()));
  video.play().catch(() => {});
  shoot.addEventListener('click', () => {
    const canvas = h('canvas', { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext('2d').drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      const time = new Date().toTimeString().slice(0, 8).replaceAll(':', '-');
      taken(new File([blob], `camera-${time}.png`, { type: 'image/png' }));
      box.close();
    }, 'image/png');
  });
  shoot.focus();
}
