import { remove, setDone } from '../../../../lib/database'

const wrong = (error) => Response.json({ error }, { status: 422 })

export async function PATCH(request, { params }) {
  const { id } = await params
  const { done } = await request.json().catch(() => ({}))
  if (!/^\d{1,18}$/.test(id) || typeof done !== 'boolean') return wrong('done must be true or false')
  await setDone(id, done)
  return new Response(null, { status: 204 })
}

export async function DELETE(_, { params }) {
  const { id } = await params
  if (!/^\d{1,18}$/.test(id)) return wrong('no such todo')
  await remove(id)
  return new Response(null, { status: 204 })
}
