// Elements. Text is only ever set as text: nothing that comes over the wire becomes markup.

export const get = (id) => document.getElementById(id)

// An element with properties (`class`, `text`, `on…`, attributes) and children.
export const make = (name, properties = {}, ...children) => {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue
    if (key === 'class') element.className = value
    else if (key === 'text') element.textContent = value
    else if (key.startsWith('on')) element.addEventListener(key.slice(2), value)
    else element.setAttribute(key, value === true ? '' : value)
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

// Shows a text, or hides the element if there is none.
export const tell = (element, text) => {
  element.textContent = text ?? ''
  element.hidden = !text
}

let hiding
// Says something for a moment.
export const toast = (text) => {
  const element = get('toast')
  element.textContent = text
  element.classList.add('shown')
  clearTimeout(hiding)
  hiding = setTimeout(() => element.classList.remove('shown'), 2500)
}

// Copies a text. False if the browser does not allow it.
export const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // Pages over plain HTTP have no clipboard but this.
    const area = make('textarea', { class: 'sr-only', 'aria-hidden': 'true' })
    area.value = text
    document.body.append(area)
    area.select()
    const copied = document.execCommand('copy')
    area.remove()
    return copied
  }
}
