// What is wrong with how a page looks: text that is hard to read, and what is wider than the page.
// An expression, evaluated in the page.
(() => {
  const faults = [];
  const parse = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return text.startsWith("color(srgb")
      ? [...numbers.slice(0, 3).map((n) => n * 255), numbers[3] ?? 1]
      : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  // `over` seen through `colour`.
  const blend = ([r, g, b, a], over) => [r, g, b].map((c, at) => c * a + over[at] * (1 - a));
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(parse(getComputedStyle(at).backgroundColor));
    }
    return layers.reduceRight((below, layer) => blend(layer, below), [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  let seen = 0;
  const check = (element, style, what) => {
    const ground = behind(element), ratio = contrast(blend(parse(style.color), ground), ground);
    seen += 1;
    if (ratio < 4.5) faults.push(`${ratio.toFixed(2)}: ${what}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (text && element.checkVisibility()) check(element, getComputedStyle(element), text);
  }
  for (const input of document.querySelectorAll("input[placeholder]")) {
    check(input, getComputedStyle(input, "::placeholder"), input.placeholder);
  }
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) faults.push(`${scrollWidth} wide in ${clientWidth}`);
  return { faults, seen };
})()
