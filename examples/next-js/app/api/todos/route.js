import { insert } from '../../../lib/database'

export async function POST(request) {
  const { task } = await request.json().catch(() => ({}))
  if (typeof task !== 'string' || !task.trim() || task.length > 200) {
    return Response.json({ error: 'task must be a text of at most 200 characters' }, { status: 422 })
  }
  const [row] = await insert(task.trim())
  return Response.json(row, { status: 201 })
}
