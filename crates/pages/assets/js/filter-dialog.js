// The editor of the filter and the columns of row changes.
import { get, make, tell } from './dom.js'
import { FilterError, IS_VALUES, OPERATORS, addColumns, parseFilter, printFilter } from './filters.js'

const HINTS = { in: '1, 2, 3', like: '%text%', ilike: '%text%', match: '^regex', imatch: '^regex' }

export class FilterDialog {
  #dialog = get('filter-dialog')
  #conditions = []
  #columns = []
  #apply = () => {}

  constructor() {
    get('add-condition').addEventListener('click', () => {
      this.#conditions.push({ column: '', not: false, operator: 'eq', value: '' })
      this.#drawConditions()
      get('conditions').lastElementChild.querySelector('input').focus()
    })
    get('add-group').addEventListener('click', () => {
      this.#conditions.push({ group: 'or=()' })
      this.#drawConditions()
      const input = get('conditions').lastElementChild.querySelector('input')
      input.focus()
      input.setSelectionRange(4, 4)
    })
    get('add-column').addEventListener('click', () => this.#addColumn())
    get('column-input').addEventListener('keydown', (event) => {
      if (event.key !== 'Enter') return
      event.preventDefault()
      this.#addColumn()
    })
    get('filter-cancel').addEventListener('click', () => this.#dialog.close())
    get('filter-form').addEventListener('submit', (event) => {
      event.preventDefault()
      this.#addColumn()
      const filter = this.#preview()
      if (filter === null) return
      this.#dialog.close()
      this.#apply(filter, this.#columns)
    })
  }

  // Opens with what there is; `apply` gets the new filter and columns unless it is cancelled. A filter that cannot be
  // read is shown, and replaced.
  open(filter, columns, part, apply) {
    this.#apply = apply
    this.#columns = [...columns]
    let note = null
    try {
      this.#conditions = parseFilter(filter)
    } catch (error) {
      if (!(error instanceof FilterError)) throw error
      this.#conditions = []
      note = `The filter ${filter} cannot be read here (${error.message}). Applying replaces it.`
    }
    tell(get('filter-note'), note)
    tell(get('filter-dialog-error'), '')
    get('column-input').value = ''
    this.#drawConditions()
    this.#drawColumns()
    this.#dialog.showModal()
    const first = get('conditions').querySelector('input') ?? get('add-condition')
    ;(part === 'returning' ? get('column-input') : first).focus()
  }

  #addColumn() {
    this.#columns = addColumns(this.#columns, get('column-input').value)
    get('column-input').value = ''
    this.#drawColumns()
  }

  #drawColumns() {
    const chips = this.#columns.map((column) =>
      make('li', { class: 'chip' }, column, make('button', {
        type: 'button', 'aria-label': `Remove ${column}`, text: '×',
        onclick: () => {
          this.#columns = this.#columns.filter((each) => each !== column)
          this.#drawColumns()
          get('column-input').focus()
        },
      })))
    get('column-chips').replaceChildren(...(chips.length ? chips : [make('li', { class: 'chip none', text: 'all columns' })]))
    this.#preview()
  }

  #drawConditions() {
    get('conditions').replaceChildren(...this.#conditions.map((condition, index) => this.#row(condition, index)))
    this.#preview()
  }

  #row(condition, index) {
    const number = index + 1
    const text = (name, attributes) => {
      const input = make('input', {
        type: 'text', class: `${name} mono`, spellcheck: 'false', autocapitalize: 'off', autocomplete: 'off', ...attributes,
        oninput: () => {
          condition[name] = input.value
          this.#preview()
        },
      })
      input.value = condition[name]
      return input
    }
    const choice = (name, options, label) => {
      const select = make('select', {
        class: name, 'aria-label': label,
        onchange: () => {
          const before = condition.operator
          condition[name] = select.value
          if (name === 'operator' && (select.value === 'is') !== (before === 'is')) {
            condition.value = select.value === 'is' ? 'null' : ''
          }
          this.#drawConditions()
          get('conditions').children[index].querySelector(`select.${name}`)?.focus()
        },
      }, ...options.map((option) => make('option', { text: option })))
      select.value = condition[name]
      return select
    }
    const remove = make('button', {
      type: 'button', class: 'remove', 'aria-label': `Remove condition ${number}`, text: '×',
      onclick: () => {
        this.#conditions.splice(index, 1)
        this.#drawConditions()
        get('add-condition').focus()
      },
    })
    if (condition.group !== undefined) {
      const written = text('group', { 'aria-label': `Group ${number}`, placeholder: 'or=(column.eq.value,column.is.null)' })
      return make('li', { class: 'condition of-group' }, written, remove)
    }
    const not = make('input', { type: 'checkbox', onchange: () => { condition.not = not.checked; this.#preview() } })
    not.checked = condition.not
    const value = condition.operator === 'is'
      ? choice('value', IS_VALUES, `Value ${number}`)
      : text('value', { 'aria-label': `Value ${number}`, placeholder: HINTS[condition.operator] ?? 'value' })
    return make('li', { class: 'condition' },
      text('column', { 'aria-label': `Column ${number}`, placeholder: 'column' }),
      make('label', { class: 'not' }, not, 'not'),
      choice('operator', OPERATORS, `Operator ${number}`),
      value,
      remove)
  }

  // Shows what would be sent; the filter, or `null` if there is none yet.
  #preview() {
    try {
      const filter = printFilter(this.#conditions)
      const lines = [`filter: ${filter || '(all rows)'}`, `select: ${this.#columns.length ? JSON.stringify(this.#columns) : '(all columns)'}`]
      get('preview').textContent = lines.join('\n')
      tell(get('filter-dialog-error'), '')
      return filter
    } catch (error) {
      if (!(error instanceof FilterError)) throw error
      get('preview').textContent = '…'
      tell(get('filter-dialog-error'), error.message)
      return null
    }
  }
}
